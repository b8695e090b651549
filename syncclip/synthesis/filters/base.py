"""What a filter is: it gives each image of a batch a score and a decision."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image


@dataclass(frozen=True)
class FilterBatch:
    """Generated images, side by side with what they were generated for."""

    images: Sequence[Image.Image]
    labels: Sequence[int]
    """Class ids."""
    prompts: Sequence[str]
    indices: Sequence[int]
    """Of the samples; several attempts at one image share an index."""

    def __len__(self) -> int:
        return len(self.images)

    def at(self, places: Sequence[int]) -> FilterBatch:
        """The images at these places."""
        columns = (self.images, self.labels, self.prompts, self.indices)
        return FilterBatch(*([column[i] for i in places] for column in columns))  # type: ignore[arg-type]


class FilterResult(NamedTuple):
    """One score (higher is better) and one decision for each image of a batch."""

    scores: list[float]
    keep: list[bool]


class Filter:
    """Judges batches; its name is the reason under which its rejects are counted.

    A shard's bytes are a function of the plan alone, so a filter may remember what was accepted before in the same
    shard, and nothing else.
    """

    name: str
    blurred: bool = False
    """Whether thumbnails of its rejects are made unrecognisable."""

    def begin(self) -> None:
        """A new shard begins: forget what was accepted in the last one."""

    @abstractmethod
    def score(self, batch: FilterBatch) -> FilterResult:
        """Score and decision for each image of what earlier filters let through."""

    def accept(self, batch: FilterBatch) -> None:
        """These images passed all filters and are taken; one with a known index takes the place of the earlier."""
