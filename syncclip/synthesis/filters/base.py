"""Base class of filters, which score each image of a batch and accept or reject it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image


@dataclass(frozen=True)
class FilterBatch:
    """Generated images with their classes, prompts and indices."""

    images: Sequence[Image.Image]
    labels: Sequence[int]
    """Class ids."""
    prompts: Sequence[str]
    indices: Sequence[int]
    """Sample indices; all generation attempts for an image share one index."""

    def __len__(self) -> int:
        return len(self.images)

    def at(self, rows: Sequence[int]) -> FilterBatch:
        """Return the given rows as a batch."""
        columns = (self.images, self.labels, self.prompts, self.indices)
        return FilterBatch(*([column[i] for i in rows] for column in columns))  # type: ignore[arg-type]


class FilterResult(NamedTuple):
    """Scores (higher is better) and accept/reject decisions for the images in a batch."""

    scores: list[float]
    keep: list[bool]


class Filter:
    """Base class of filters.

    A filter's state is limited to the images accepted in the current shard, since shard contents must be deterministic
    given the plan.
    """

    name: str
    """Rejection reason in statistics and thumbnails."""
    blurred: bool = False
    """Whether thumbnails of rejected images are blurred beyond recognition."""

    def begin(self) -> None:
        """Reset the state at the start of a shard."""

    @abstractmethod
    def score(self, batch: FilterBatch) -> FilterResult:
        """Score the images that passed the previous filters, and accept or reject each image."""

    def accept(self, batch: FilterBatch) -> None:
        """Update the state with images that passed all filters; they replace earlier attempts with the same index."""
