"""Actor pools and their settings in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Discriminator, Field, Tag, model_validator

from syncclip.core.settings import Settings

MAX_ACTORS = 10_000
"""Maximum number of actors in a pool."""


class PoolSettings(Settings):
    """A pool that starts with `min` actors and grows to `max` while shards are queued and the cluster has capacity."""

    min: int = Field(1, ge=1, le=MAX_ACTORS)
    """Initial and minimum number of actors."""
    max: int = Field(ge=1, le=MAX_ACTORS)
    """Maximum number of actors."""

    @model_validator(mode="after")
    def _check_order(self) -> PoolSettings:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is larger than max {self.max}; swap them")
        return self


Actors = Annotated[
    Annotated[int, Field(ge=1, le=MAX_ACTORS), Tag("")] | Annotated[PoolSettings, Tag("PoolSettings")],
    Discriminator(lambda actors: "PoolSettings" if isinstance(actors, dict | PoolSettings) else ""),
]
"""Number of actors, or its minimum and maximum. The discriminator limits pydantic's errors to the form being used."""


class Pool(NamedTuple):
    """Actor pool of a job; the number of actors does not affect the job's output."""

    actors: int = 1
    max_actors: int | None = None
    """Maximum number of actors in a growing pool; None: the pool size is fixed."""
    num_gpus: float = 0.0
    """Number of GPUs per actor; 0: run on the CPU."""
    retries: int = 2
    """Maximum number of retries of a failed shard."""
    label_selector: Mapping[str, str] | None = None
    """Labels that an actor's node must have; None: any node."""

    @property
    def size(self) -> tuple[int, int]:
        """Minimum and maximum number of actors."""
        return self.actors, max(self.actors, self.max_actors or self.actors)

    def billed_hours(self, seconds: Any) -> Any:
        """Convert the time of all actors in seconds to GPU-hours or, without GPUs, to actor-hours."""
        return seconds * (self.num_gpus or 1.0) / 3600

    @property
    def device(self) -> str:
        """torch device of the actors."""
        return "cuda" if self.num_gpus > 0 else "cpu"


ONE_ACTOR = Pool()
