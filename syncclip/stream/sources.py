"""Mix of several datasets with the same classes, weighted by repetition (real) or sampling probability (synthetic)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from syncclip.shards.index import Rows
from syncclip.shards.reader import ImageSet

Set = TypeVar("Set", bound=ImageSet)


@dataclass(frozen=True)
class MixedSource(Generic[Set]):
    """A dataset in a mix, with its weight.

    The `weight` of a synthetic dataset is its relative sampling probability. The `weight` of a real dataset is the
    number of times that each image occurs per epoch; with a weight of 0.5, each image occurs in every other epoch.
    """

    images: Set
    weight: float = 1.0
    rows: Sequence[int] | Rows | None = None
    """Rows to use; None for all rows."""


class JoinedSet(ImageSet):
    """The concatenation of several datasets."""

    def __init__(self, sets: Sequence[ImageSet]) -> None:
        self.sets = list(sets)
        self.starts: Rows = np.cumsum([0, *map(len, self.sets)]).astype(np.int64)
        self.labels = np.concatenate([np.asarray(images.labels, np.int64) for images in self.sets])

    def rows_of(self, label: int) -> Rows:
        pairs = zip(self.sets, self.starts, strict=False)
        return np.concatenate([images.rows_of(label) + start for images, start in pairs]).astype(np.int64)

    def read(self, row: int) -> bytes:
        images, row = self._locate(row)
        return images.read(row)

    def name(self, row: int) -> str:
        images, row = self._locate(row)
        return images.name(row)

    def size(self, row: int) -> int | None:
        images, row = self._locate(row)
        return images.size(row)

    def image(self, row: int) -> Image.Image:
        images, row = self._locate(row)
        return images.image(row)

    def _locate(self, row: int) -> tuple[ImageSet, int]:
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.sets[number], row - int(self.starts[number])


def joined(sources: Sequence[MixedSource[Set]]) -> ImageSet:
    """Return the concatenated images of all sources."""
    return sources[0].images if len(sources) == 1 else JoinedSet([source.images for source in sources])
