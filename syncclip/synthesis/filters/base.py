"""Interface of a filter: a score and a decision for each image of a batch."""

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
    """Sample indices; several attempts at one image share an index."""

    def __len__(self) -> int:
        return len(self.images)

    def at(self, rows: Sequence[int]) -> FilterBatch:
        """The images of these rows."""
        columns = (self.images, self.labels, self.prompts, self.indices)
        return FilterBatch(*([column[i] for i in rows] for column in columns))  # type: ignore[arg-type]


class FilterResult(NamedTuple):
    """One score (higher is better) and one decision for each image of a batch."""

    scores: list[float]
    keep: list[bool]


class Filter:
    """Accepts or rejects images; its name is the reason under which its rejects are counted.

    A shard's bytes are a function of the plan alone, so a filter may only remember the images accepted before in the
    same shard.
    """

    name: str
    blurred: bool = False
    """Whether thumbnails of its rejects are made unrecognisable."""

    def begin(self) -> None:
        """Start a shard: forget the images accepted in the previous one."""

    @abstractmethod
    def score(self, batch: FilterBatch) -> FilterResult:
        """Score and decision for each image that passed the previous filters."""

    def accept(self, batch: FilterBatch) -> None:
        """Remember images that passed all filters; one with a known index replaces the earlier one."""
