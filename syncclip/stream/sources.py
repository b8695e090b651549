"""Mix of several datasets with the same classes, weighted by repetition (real) or sampling probability (synthetic)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.shards.index import Numbers, Rows
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.stream import order

Set = TypeVar("Set", bound=ImageSet)


@dataclass(frozen=True)
class MixedSource(Generic[Set]):
    """A dataset in a mix, with its weight.

    The `weight` of a synthetic dataset is its relative sampling probability. The `weight` of a real dataset is the
    number of occurrences of each image per epoch; with a weight of 0.5, each image occurs in every other epoch.
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

    def image(self, row: int) -> Image.Image:
        images, row = self._locate(row)
        return images.image(row)

    def _locate(self, row: int) -> tuple[ImageSet, int]:
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.sets[number], row - int(self.starts[number])


def joined(sources: Sequence[MixedSource[Set]]) -> ImageSet:
    """Return the concatenated images of all sources."""
    return sources[0].images if len(sources) == 1 else JoinedSet([source.images for source in sources])


class RealEpochs:
    """The real images in each epoch, as row indices into the concatenated datasets."""

    def __init__(self, sources: Sequence[MixedSource[Set]], seed: int) -> None:
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
            which = f" in dataset {empty[0] + 1} of {len(sources)}" if len(sources) > 1 else ""
            raise UserError(f"there are no real training images{which}; use at least one shot per class")
        self.rows: Rows = np.concatenate(self._rows).astype(np.int64, copy=False)
        """Rows that occur in at least one epoch."""
        self._unweighted = self._counts == [len(rows) for rows in self._rows]
        self._weighted = lru_cache(maxsize=2)(self._weighted_rows)

    def __len__(self) -> int:
        return sum(self._counts)

    def rows_of_epoch(self, epoch: int) -> Rows:
        """Return an epoch's rows before shuffling; with a dataset weight of 1, each row occurs exactly once."""
        return self.rows if self._unweighted else self._weighted(epoch)

    def _weighted_rows(self, epoch: int) -> Rows:
        parts = [
            rows
            if count == len(rows)
            else rows[order.shown_items(len(rows), count, order.key(self._seed, number), epoch)]
            for number, (rows, count) in enumerate(zip(self._rows, self._counts, strict=True))
        ]
        return np.concatenate(parts)


AHEAD = 4
"""Number of window positions whose shards are prefetched; a value above 1 leaves time for retries."""


class SyntheticSampler:
    """Sampler of synthetic images with given labels.

    For each label, a dataset that contains the class is sampled by weight. An image of the class is then sampled
    uniformly from the dataset's window, or from the whole dataset if the window does not contain the class.
    """

    def __init__(self, sources: Sequence[MixedSource[ShardSet]], *, seed: int, width: int | None, sampled: int) -> None:
        """
        Args:
            sources: one or more datasets.
            width: number of shards in each dataset's window; if None, all shards.
            sampled: total number of images per step.
        """
        self._seed = seed
        self._weights = np.array([source.weight for source in sources])
        shares = self._weights / self._weights.sum()
        self.windows = [
            MovingWindow(
                source.images,
                width=width,
                seed=order.key(order.SOURCE, seed, number) if number else seed,
                sampled=max(1, round(sampled * share)),
            )
            for number, (source, share) in enumerate(zip(sources, shares, strict=True))
        ]
        self._starts = np.cumsum([0, *(len(source.images) for source in sources)])

    def fetch(self, global_step: int) -> None:
        """Prefetch the shards in a step's windows and in the following windows."""
        for window in self.windows:
            window.fetch(global_step)

    def sample(self, labels: Rows, purpose: int, epoch: int, step: int, global_step: int) -> Rows:
        """Sample a row of the concatenated datasets for each label; `global_step` is counted over all epochs."""
        choices = [window.choices(labels, global_step) for window in self.windows]
        if len(self.windows) == 1:
            sets = np.zeros(len(labels), np.int64)
        else:
            available = np.array([[len(rows) > 0 for rows in per_set] for per_set in choices]).T
            sets = order.choose(available * self._weights, order.key(order.SOURCE, purpose, self._seed, epoch, step))
        bounds = np.array([len(choices[number][i]) for i, number in enumerate(sets)], np.int64)
        numbers = order.below(bounds, order.key(purpose, self._seed, epoch, step))
        rows = [
            self._starts[number] + int(choices[number][i][n])
            for i, (number, n) in enumerate(zip(sets, numbers, strict=True))
        ]
        return np.array(rows, np.int64)


class MovingWindow:
    """Window over a dataset's shards from which images are sampled; the window moves by one shard at a time."""

    def __init__(self, images: ShardSet, *, width: int | None, seed: int, sampled: int) -> None:
        self._images, self._seed = images, seed
        shard = images.samples.shard
        edges = np.concatenate([[0], np.flatnonzero(shard[1:] != shard[:-1]) + 1, [len(shard)]])
        self._shards, which = np.unique(shard[edges[:-1]], return_inverse=True)
        by_shard = np.argsort(which, kind="stable")
        runs = np.stack([edges[:-1], edges[1:]], axis=1)[by_shard]
        self._runs = np.split(runs, np.flatnonzero(np.diff(which[by_shard])) + 1)
        """Start and end of each shard's contiguous row ranges (usually one range)."""
        self._width = len(self._shards) if width is None else width
        if self._width < 1:
            raise UserError(f"a window of {width} shards contains no images; set training.shuffle_window to 1 or more")
        self._steps_per_window = order.steps_per_window(len(images), len(self._shards), sampled)
        self._index = lru_cache(maxsize=4)(self._by_label)

    def shards(self, global_step: int, positions: int = 1) -> list[int]:
        """Return the shard numbers in the window and, if `positions` is greater than 1, in later windows."""
        position = global_step // self._steps_per_window
        shards = dict.fromkeys(shard for ahead in range(positions) for shard in self._window(position + ahead))
        return [int(self._shards[shard]) for shard in shards]

    def fetch(self, global_step: int) -> None:
        """Prefetch the shards of the current window and of the next `AHEAD` windows."""
        if self._width < len(self._shards):
            self._images.hold(self.shards(global_step, AHEAD + 1))

    def choices(self, labels: Rows, global_step: int) -> Sequence[Numbers]:
        """Return each label's candidate rows: the label's rows in the window or, if there are none, in all shards."""
        if self._width >= len(self._shards):
            return [self._images.samples.rows_of(int(label)) for label in labels]
        by_label, sorted_labels = self._index(self._window(global_step // self._steps_per_window))
        first, last = np.searchsorted(sorted_labels, labels), np.searchsorted(sorted_labels, labels + 1)
        return [
            by_label[a:b] if a < b else self._images.samples.rows_of(int(label))
            for a, b, label in zip(first, last, labels, strict=True)
        ]

    def _window(self, position: int) -> tuple[int, ...]:
        return order.window(len(self._shards), self._width, self._seed, position)

    def _by_label(self, window: tuple[int, ...]) -> tuple[Rows, Rows]:
        """Return the rows of the window's shards, sorted by label, and their labels."""
        rows = np.sort(np.concatenate([np.arange(*run) for shard in window for run in self._runs[shard]]))
        labels = self._images.labels[rows]
        by_label = np.argsort(labels, kind="stable")
        return rows[by_label], labels[by_label]
