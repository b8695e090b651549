"""Section `synthesis` of a recipe: number of images, generator, prompts, filters and actors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from syncclip.core.settings import Settings
from syncclip.synthesis.filters import BlankSettings, ClipHeadSettings, FilterSettings
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.prompts.settings import PromptSettings
from syncclip.workers.settings import Actors, Pool, PoolSettings

MAX_ATTEMPTS = 16
"""Attempts and index share the 32 bits of a seed; see `seeds.seed_of`."""


class CostSettings(Settings):
    """Assumptions of `syncclip plan`. The generated files do not depend on them."""

    throughput: float | None = Field(None, ge=1e-9, le=1e6)
    """Throughput of one actor, in finished images per second; None: `--throughput`, or measured by `--probe`."""
    image_bytes: float | None = Field(None, gt=0, le=1e12)
    """Bytes per stored image; None: measured by `--probe`."""
    price: float | None = Field(None, ge=0, le=1e9)
    """Price per hour of a GPU or, where actors use none, of an actor."""
    currency: str = "USD"
    """Currency of the price, for display."""
    preemptions: float = Field(0.0, ge=0, le=1e6)
    """Preemptions per machine and hour."""
    wait: float = Field(180.0, ge=0, le=1e8)
    """Seconds until a preempted machine is replaced; they are not billed."""
    load: float | None = Field(None, ge=0, le=1e8)
    """Seconds from a machine's start to its first shard, including weights; None: measured by `--probe`, else 60."""


class SynthesisSettings(Settings):
    """What to generate, and with which actors. All but `actors` and `retries` belongs to the plan."""

    images_per_class: int = Field(16, ge=1)
    """Synthetic images per class; a dataset can be extended later."""
    seed: int = Field(0, ge=0)
    """Seed from which each image's own is derived, by its index and attempt."""
    generator: GeneratorSettings = GeneratorSettings()
    """Image generator."""
    prompts: PromptSettings = PromptSettings()
    """Prompts."""
    filters: tuple[FilterSettings, ...] = (BlankSettings(),)
    """Filters in order; each one sees the images that passed the previous ones."""
    attempts: int = Field(3, ge=1, le=MAX_ATTEMPTS)
    """Maximum number of attempts per image."""
    select: Literal["first", "best"] = "first"
    """Take the first attempt that passes, or make all attempts and take the one with the last filter's best score."""
    keep: Literal["best", "drop"] = "best"
    """If no attempt passes, keep the best of them, or drop the image."""
    shard_size: int | None = None
    """Images per shard; None: the fewest rounds over all classes that make 64 images, and at least a batch."""
    jpeg_quality: int = Field(92, ge=1, le=100)
    """JPEG quality of stored images, 1 to 100."""
    threads: int = Field(1, ge=1)
    """torch threads per actor. Part of the plan, since an image's last bits depend on it."""
    actors: Actors = 1
    """Number of actors, or `{min: 1, max: 8}` for a pool that grows with the cluster."""
    num_gpus: float = Field(0.0, ge=0, le=1024)
    """GPUs per actor, may be fractional; 0 generates on the CPU."""
    retries: int = Field(2, ge=0)
    """Rounds without progress after which failed shards are given up."""
    quality: bool = False
    """Measure the quality of the finished dataset and store it there, as `syncclip shards quality` does."""
    cost: CostSettings = CostSettings()
    """Assumptions for estimates of time and cost."""

    @property
    def pool(self) -> Pool:
        """The pool of actors."""
        if isinstance(self.actors, PoolSettings):
            return Pool(self.actors.min, self.actors.max, self.num_gpus, self.retries)
        return Pool(self.actors, num_gpus=self.num_gpus, retries=self.retries)

    @model_validator(mode="after")
    def _check_consistency(self) -> SynthesisSettings:
        reasons = [entry.reason if isinstance(entry, ClipHeadSettings) else entry.name for entry in self.filters]
        if repeated := [name for name in reasons if reasons.count(name) > 1]:
            raise ValueError(f"the filter {repeated[0]!r} is given twice; remove one, since rejects count by its name")
        names = {entry.name for entry in self.filters}
        if self.generator.endpoint and self.num_gpus and names <= {"blank", "duplicate"}:
            raise ValueError("num_gpus: an endpoint has its own, and no filter needs one; set it to 0")
        batch = self.generator.batch_size
        if self.shard_size is not None and batch != "auto" and self.shard_size < batch:
            raise ValueError(
                f"shard_size {self.shard_size} is smaller than one batch of generator.batch_size {batch}; "
                "make shards larger or batches smaller"
            )
        if self.generator.offload != "none" and self.num_gpus == 0:
            raise ValueError(f"generator.offload {self.generator.offload!r} needs a GPU, and num_gpus is 0; remove it")
        if self.select == "best" and not self.filters:
            raise ValueError("select 'best' needs a filter whose score decides; add one or use select 'first'")
        return self
