"""Base class of filters, which score and accept or reject the images of a batch."""

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
    """Sample indices; the attempts at an image share its index."""

    def __len__(self) -> int:
        return len(self.images)

    def at(self, rows: Sequence[int]) -> FilterBatch:
        """Return these rows as a batch."""
        columns = (self.images, self.labels, self.prompts, self.indices)
        return FilterBatch(*([column[i] for i in rows] for column in columns))  # type: ignore[arg-type]


class FilterResult(NamedTuple):
    """Scores (higher is better) and accept decisions for the images of a batch."""

    scores: list[float]
    keep: list[bool]


class Filter:
    """Base class of filters.

    Since the bytes of a shard are a function of the plan alone, the state of a filter is limited to the images accepted
    in the current shard.
    """

    name: str
    """Reason under which rejects are counted."""
    blurred: bool = False
    """Whether thumbnails of rejects are made unrecognisable."""

    def begin(self) -> None:
        """Reset the state at the start of a shard."""

    @abstractmethod
    def score(self, batch: FilterBatch) -> FilterResult:
        """Score the images that passed the previous filters, and accept or reject each."""

    def accept(self, batch: FilterBatch) -> None:
        """Add images that passed all filters to the state; each replaces an earlier attempt at the same index."""
