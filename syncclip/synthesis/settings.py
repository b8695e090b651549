"""The `synthesis` section of a recipe: number of images, generator, prompts, filters and actors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from syncclip.core.labels import LabelSelector
from syncclip.core.settings import Settings, added
from syncclip.synthesis.filters import BlankSettings, ClipHeadSettings, FilterSettings
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.prompts.settings import PromptSettings
from syncclip.workers.settings import Actors, Pool, PoolSettings

MAX_ATTEMPTS = 16
"""Maximum number of attempts per image; see `seeds.seed_of`."""


class CostSettings(Settings):
    """Cost assumptions for `syncclip plan`, and the budget of `synth`; they do not affect the generated images."""

    throughput: float | None = Field(None, ge=1e-9, le=1e6)
    """Throughput per actor in finished images per second; default: set by `--throughput` or measured by `--probe`."""
    image_bytes: float | None = Field(None, gt=0, le=1e12)
    """Size of a stored image in bytes; default: measured by `--probe`."""
    price: float | None = Field(None, ge=0, le=1e9)
    """Price per GPU-hour or, without GPUs, per actor-hour, in `currency`."""
    currency: str = "USD"
    """Currency of `price` and `budget`."""
    budget: float | None = Field(None, gt=0, le=1e12)
    """Maximum cost of the dataset in `currency`, including earlier runs; requires `price`. `synth` stops before the
    shard that would exceed the budget, and resumes with a larger budget. Default: no limit."""
    preemptions: float = Field(0.0, ge=0, le=1e6)
    """Preemptions per machine-hour."""
    wait: float = Field(180.0, ge=0, le=1e8)
    """Time until a preempted machine is replaced, in seconds (not billed)."""
    load: float | None = Field(None, ge=0, le=1e8)
    """Seconds from a machine's start to its first shard; default: measured by `--probe`, or 60 without `--probe`."""

    @model_validator(mode="after")
    def _check_price(self) -> CostSettings:
        if self.budget is not None and not self.price:
            raise ValueError("budget requires a price per GPU-hour or actor-hour; set price, or remove budget")
        return self


class SynthesisSettings(Settings):
    """Image synthesis: number of images, generator, prompts, filters and actors."""

    images_per_class: int = Field(16, ge=1)
    """Number of synthetic images per class; datasets can be extended later."""
    seed: int = Field(0, ge=0)
    """Seed of the dataset; an image's seed also depends on its index and attempt number."""
    generator: GeneratorSettings = GeneratorSettings()
    """Image generator."""
    prompts: PromptSettings = PromptSettings()
    """Prompts for the generator."""
    filters: tuple[FilterSettings, ...] = (BlankSettings(),)
    """Filters, applied in this order; each filter receives the images that passed the previous filters."""
    attempts: int = Field(3, ge=1, le=MAX_ATTEMPTS)
    """Maximum number of attempts per image."""
    select: Literal["first", "best"] = "first"
    """Criterion for selecting among an image's attempts. `first` selects the first attempt that passes all filters.
    `best` selects the attempt with the highest score from the last filter."""
    keep: Literal["best", "drop"] = "best"
    """Fallback if no attempt passes all filters: `best` keeps the best attempt, and `drop` drops the image."""
    shard_size: int | None = None
    """Number of images per shard; default: max(64, batch size) or, for at most 50,000 shards, more, rounded up to a
    multiple of the class count. Extending a dataset doesn't change its default."""
    jpeg_quality: int = Field(92, ge=1, le=100)
    """JPEG quality of stored images, 1 to 100."""
    mark: Literal["iptc", "none"] = added("iptc")
    """Provenance mark in each image: `iptc` stores IPTC's digital source type and the generator's name as XMP. An
    existing dataset without a mark is extended without a mark."""
    threads: int = Field(1, ge=1)
    """Number of torch threads per actor; stored in the plan, since it affects the least significant bits of images."""
    actors: Actors = 1
    """Number of actors, or `{min: 1, max: 8}` for a pool that grows with the cluster."""
    num_gpus: float = Field(0.0, ge=0, le=1024)
    """Number of GPUs per actor (may be fractional); 0: generate on the CPU."""
    label_selector: LabelSelector = Field(default_factory=dict)
    """Ray node labels required for actors, such as `{ray.io/market-type: spot}`: a mapping from labels to values, or to
    "!value" to exclude a value. By default, actors run on any node."""
    retries: int = Field(2, ge=0)
    """Maximum number of retries of a failed shard, after all other shards."""
    quality: bool = False
    """Measure and store the quality of the finished dataset, as `syncclip shards quality` does."""
    cost: CostSettings = CostSettings()
    """Assumptions for time and cost estimates."""

    @property
    def pool(self) -> Pool:
        """The actor pool."""
        if isinstance(self.actors, PoolSettings):
            low, high = self.actors.min, self.actors.max
        else:
            low, high = self.actors, None
        return Pool(low, high, self.num_gpus, self.retries, self.label_selector)

    @model_validator(mode="after")
    def _check_consistency(self) -> SynthesisSettings:
        reasons = [entry.reason if isinstance(entry, ClipHeadSettings) else entry.name for entry in self.filters]
        if repeated := [name for name in reasons if reasons.count(name) > 1]:
            raise ValueError(f"the filter {repeated[0]!r} is set twice; remove one of them")
        names = {entry.name for entry in self.filters}
        if self.generator.endpoint and self.num_gpus and names <= {"blank", "duplicate"}:
            raise ValueError("num_gpus: neither the endpoint nor a filter uses the actors' GPUs; use num_gpus=0")
        batch = self.generator.batch_size
        if self.shard_size is not None and batch != "auto" and self.shard_size < batch:
            raise ValueError(
                f"shard_size {self.shard_size} is smaller than generator.batch_size {batch}; "
                "increase shard_size or reduce batch_size"
            )
        if self.generator.offload != "none" and self.num_gpus == 0:
            raise ValueError(
                f"generator.offload {self.generator.offload!r} needs a GPU, but num_gpus is 0; increase "
                "num_gpus or remove generator.offload"
            )
        if self.select == "best" and not self.filters:
            raise ValueError("select 'best' needs a filter that scores the images; add a filter, or use 'first'")
        return self
