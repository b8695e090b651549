"""Several sets of the same classes, mixed: as one list of images, and by how often each is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from syncclip.settings import UserError
from syncclip.shards import order
from syncclip.shards.reader import ImageSet, Rows

Set = TypeVar("Set", bound=ImageSet)


@dataclass(frozen=True)
class Source(Generic[Set]):
    """One of the sets that are mixed.

    Of synthetic sets, `weight` is the chance of a draw beside the other sets that show a class. Of real ones it is how
    often an epoch shows each picture: 1 once, 2 twice, 0.5 every other epoch.
    """

    images: Set
    weight: float = 1.0
    rows: Sequence[int] | Rows | None = None
    """The rows to be used; None for all."""


class JoinedSet:
    """The images of several sets, those of the first before those of the next: an `ImageSet` again."""

    def __init__(self, sets: Sequence[ImageSet]) -> None:
        self.sets = list(sets)
        self.starts: Rows = np.cumsum([0, *map(len, self.sets)]).astype(np.int64)
        self.labels: Rows = np.concatenate([np.asarray(one.labels, np.int64) for one in self.sets])

    def __len__(self) -> int:
        return len(self.labels)

    def rows_of(self, label: int) -> Rows:
        """Ascending rows of a class; empty where it has none."""
        pairs = zip(self.sets, self.starts, strict=False)
        return np.concatenate([one.rows_of(label) + start for one, start in pairs]).astype(np.int64)

    def image(self, row: int) -> Image.Image:
        """The RGB picture of a row, see its set's own `image`."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.sets[number].image(row - int(self.starts[number]))


def joined(sources: Sequence[Source[Set]]) -> ImageSet:
    """The images of all sources; those of the only one as they are."""
    return sources[0].images if len(sources) == 1 else JoinedSet([source.images for source in sources])


class RealEpochs:
    """Which real images an epoch shows, as rows of the joined sets."""

    def __init__(self, sources: Sequence[Source[Set]], seed: int) -> None:
        self._seed = seed
        starts = np.cumsum([0, *(len(source.images) for source in sources)])
        self._rows = [
            start + (np.arange(len(source.images)) if source.rows is None else np.asarray(source.rows, np.int64))
            for source, start in zip(sources, starts, strict=False)
        ]
        self._counts = [
            max(1, round(source.weight * len(rows))) for source, rows in zip(sources, self._rows, strict=True)
        ]
        if empty := [number for number, rows in enumerate(self._rows) if not len(rows)]:
            which = f" in set {empty[0] + 1} of {len(sources)}" if len(sources) > 1 else ""
            raise UserError(f"there is no real image to train on{which}; give at least one shot per class")
        self.rows: Rows = np.concatenate(self._rows).astype(np.int64, copy=False)
        """All that are ever shown."""
        self._even = self._counts == [len(rows) for rows in self._rows]
        self._turns = lru_cache(maxsize=2)(self._turn)

    def __len__(self) -> int:
        return sum(self._counts)

    def shown(self, epoch: int) -> Rows:
        """(len,) rows, before they are shuffled: each once where its set's weight is 1."""
        return self.rows if self._even else self._turns(epoch)

    def _turn(self, epoch: int) -> Rows:
        parts = [
            rows if count == len(rows) else rows[order.turn(len(rows), count, order.key(self._seed, number), epoch)]
            for number, (rows, count) in enumerate(zip(self._rows, self._counts, strict=True))
        ]
        return np.concatenate(parts)
