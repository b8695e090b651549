"""Section `synthesis` of a recipe: how many images are generated, by what, and who generates them."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag, model_validator

from syncclip.core.settings import Settings
from syncclip.synthesis.filters import BlankSettings, ClipHeadSettings, FilterSettings
from syncclip.synthesis.generators.settings import GeneratorSettings
from syncclip.synthesis.prompts.settings import PromptSettings

MAX_ATTEMPTS = 16
"""Attempts and index share the 32 bits of a seed; see `seeds.seed_of`."""


MOST_ACTORS = 10_000
"""More than any cluster has."""


class PoolSettings(Settings):
    """Bounds of the pool of actors: it begins with `min` and grows to `max` while shards wait and there is room."""

    min: int = Field(1, ge=1, le=MOST_ACTORS)
    """Actors at the beginning, and at least."""
    max: int = Field(ge=1, le=MOST_ACTORS)
    """Actors at most."""

    @model_validator(mode="after")
    def _in_order(self) -> PoolSettings:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is larger than max {self.max}; exchange them")
        return self


Actors = Annotated[
    Annotated[int, Field(ge=1, le=MOST_ACTORS), Tag("")] | Annotated[PoolSettings, Tag("PoolSettings")],
    Discriminator(lambda actors: "PoolSettings" if isinstance(actors, dict | PoolSettings) else ""),
]
"""A number or bounds. The form decides which, so that a mistake in one isn't reported as one in the other."""


class Pool(NamedTuple):
    """The actors that generate shards, `plan.threads` CPUs each. No byte of a set depends on them."""

    actors: int = 1
    max_actors: int | None = None
    """To so many the pool grows while shards wait and the cluster has room; None: it doesn't grow."""
    num_gpus: float = 0.0
    """GPUs of an actor; 0 generates on the CPU."""
    retries: int = 2
    """Further rounds for shards that failed; rounds that commit something don't count."""

    @property
    def size(self) -> tuple[int, int]:
        """Actors at least and at most."""
        return self.actors, max(self.actors, self.max_actors or self.actors)

    @property
    def device(self) -> str:
        """torch device of the actors."""
        return "cuda" if self.num_gpus > 0 else "cpu"


ONE_ACTOR = Pool()


class CostSettings(Settings):
    """What `syncclip plan` estimates with. No byte depends on it."""

    throughput: float | None = Field(None, ge=1e-9, le=1e6)
    """Throughput of one actor, in finished images per second; None: `--throughput`, or measured by `--probe`."""
    image_bytes: float | None = Field(None, gt=0, le=1e12)
    """Bytes of an image in the set; None: `--probe` measures it."""
    price: float | None = Field(None, ge=0, le=1e9)
    """Of one hour: of a GPU where actors use any, else of an actor."""
    currency: str = "USD"
    """Of the price; only shown."""
    preemptions: float = Field(0.0, ge=0, le=1e6)
    """How often an hour a machine is taken away."""
    wait: float = Field(180.0, ge=0, le=1e8)
    """Seconds until another machine comes, which is not paid for until then."""
    load: float | None = Field(None, ge=0, le=1e8)
    """Seconds from a machine's start to its first shard, weights loaded; None: what `--probe` measures, else `LOAD`."""


class SynthesisSettings(Settings):
    """What to generate, which goes into the plan, and who generates it: no byte depends on `actors` or `retries`."""

    images_per_class: int = Field(16, ge=1)
    """Synthetic images of each class; a set may be grown to more later."""
    seed: int = Field(0, ge=0)
    """Of all images; each has its own, derived from this, its number and its attempt."""
    generator: GeneratorSettings = GeneratorSettings()
    """What generates images from prompts."""
    prompts: PromptSettings = PromptSettings()
    """From which sentences images are generated."""
    filters: tuple[FilterSettings, ...] = (BlankSettings(),)
    """In the order in which they score; what one rejects, the next doesn't see."""
    attempts: int = Field(3, ge=1, le=MAX_ATTEMPTS)
    """How often an image is generated at most."""
    select: Literal["first", "best"] = "first"
    """Take the first attempt that passes, or make all attempts and take the one with the last filter's best score."""
    keep: Literal["best", "drop"] = "best"
    """Where no attempt passes: keep the best of them, or leave the image out."""
    shard_size: int | None = None
    """Images in a shard; None: the fewest whole rounds over the classes that make 64, and at least a batch."""
    jpeg_quality: int = Field(92, ge=1, le=100)
    """Of the stored images, 1 to 100."""
    threads: int = Field(1, ge=1)
    """torch threads of an actor. The last bits of an image depend on it, so it belongs to the plan."""
    actors: Actors = 1
    """A number, or `{min: 1, max: 8}` for a pool that grows where a cluster does."""
    num_gpus: float = Field(0.0, ge=0, le=1024)
    """GPUs of an actor, also a fraction; 0 generates on the CPU."""
    retries: int = Field(2, ge=0)
    """Further rounds for shards that failed; those that bring nothing new count."""
    quality: bool = False
    """Measure the finished set and keep the numbers beside it, as `syncclip shards quality` does."""
    cost: CostSettings = CostSettings()
    """What time and money are estimated from before the start."""

    @property
    def pool(self) -> Pool:
        """Who generates."""
        if isinstance(self.actors, PoolSettings):
            return Pool(self.actors.min, self.actors.max, self.num_gpus, self.retries)
        return Pool(self.actors, num_gpus=self.num_gpus, retries=self.retries)

    @model_validator(mode="after")
    def _check_consistency(self) -> SynthesisSettings:
        # what rejects are counted under
        names = [one.called if isinstance(one, ClipHeadSettings) else one.name for one in self.filters]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"the filter {twice[0]!r} is given twice; give it once, for its name counts its rejects")
        if self.generator.endpoint and self.num_gpus and {one.name for one in self.filters} <= {"blank", "duplicate"}:
            raise ValueError("num_gpus: an endpoint has its own, and no filter asks a model that uses one; set it to 0")
        batch = self.generator.batch_size
        if self.shard_size is not None and batch != "auto" and self.shard_size < batch:
            raise ValueError(
                f"shard_size {self.shard_size} is smaller than one batch of generator.batch_size {batch}; "
                "make shards larger or batches smaller"
            )
        if self.generator.offload != "none" and self.num_gpus == 0:
            raise ValueError(f"generator.offload {self.generator.offload!r} needs a GPU, and num_gpus is 0; remove it")
        if self.select == "best" and not self.filters:
            raise ValueError("select 'best' needs a filter whose score decides what is best; add one or select 'first'")
        return self
