"""Training order: the images in each training step.

`TrainingOrder.ids` returns a step's images as a pure function of (seed, epoch, step) and the committed shards.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from syncclip.core.settings import UserError
from syncclip.shards.index import Numbers, Rows
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.stream.random_numbers import (
    BASE_LABEL,
    NOVEL,
    NOVEL_LABEL,
    SEEN,
    SOURCE,
    WINDOW,
    below,
    choose,
    key,
    permutation,
)
from syncclip.stream.sources import MixedSource, joined

Data = Literal["real", "synthetic", "both"]
EpochsOver = Literal["real", "synthetic", "longer"]

AHEAD = 4
"""Number of window positions whose shards are prefetched; a value above 1 leaves time for retries."""

_NONE: Rows = np.empty(0, np.int64)


@dataclass(frozen=True)
class BatchIds:
    """A global batch for all ranks, as row indices into the real and synthetic datasets; unused groups are empty."""

    real: Rows  # (B,) rows of the real dataset, with `labels`
    seen: Rows  # (B,) rows of the synthetic dataset, with `labels`
    novel: Rows  # (B,) rows of the synthetic dataset, with `novel_labels`
    labels: Rows  # (B,)
    novel_labels: Rows  # (B,)


class TrainingOrder:
    """The images of each step, as rows of the concatenated real and synthetic datasets; identical on all ranks."""

    def __init__(
        self,
        real: Sequence[MixedSource[ImageSet]],
        synthetic: Sequence[MixedSource[ShardSet]],
        *,
        batch: int,
        seed: int,
        base: Rows,
        novel: Rows,
        data: Data,
        epochs_over: EpochsOver,
        window: int | None,
    ) -> None:
        """See `MixedStream`; `synthetic` and `novel` are empty if `data` is "real"."""
        self.real = joined(real) if real else None
        self.epochs = RealEpochs(real, seed) if real else None
        self.synthetic = joined(synthetic) if synthetic else None
        self._base, self._novel, self._data, self._batch, self._seed = base, novel, data, batch, seed
        sampled = batch * (2 if len(novel) else 1)
        self.sampler = SyntheticSampler(synthetic, seed=seed, width=window, sampled=sampled) if synthetic else None
        if self.epochs is not None:
            images = len(self.epochs)
        else:
            assert self.synthetic is not None
            images = int(np.isin(self.synthetic.labels, base).sum())
        self.steps_per_round = steps(images, batch)
        """Number of batches in a pass over the real images or, without real images, the synthetic base images."""
        self.steps_per_epoch = self.steps_per_round
        """Number of batches in an epoch."""
        if self.synthetic is not None and epochs_over != "real":
            synthetic_steps = steps(len(self.synthetic), sampled)
            longer = max(synthetic_steps, self.steps_per_round)
            self.steps_per_epoch = synthetic_steps if epochs_over == "synthetic" else longer

    def global_step(self, epoch: int, step: int) -> int:
        """Return the number of steps before a given step of a given epoch, counted over all epochs."""
        return epoch * self.steps_per_epoch + step

    def ids(self, epoch: int, step: int) -> BatchIds:
        """Return a step's global batch, which is a pure function of (seed, epoch, step)."""
        assert 0 <= step < self.steps_per_epoch, f"step {step} of {self.steps_per_epoch}"
        global_step = self.global_step(epoch, step)
        if self.epochs is not None and self.real is not None:
            round_number, step_in_round = divmod(global_step, self.steps_per_round)
            positions = batch_of(len(self.epochs), self._batch, self._seed, round_number, step_in_round)
            real = self.epochs.rows_of_epoch(round_number)[positions]
            labels = self.real.labels[real]
        else:
            real = _NONE
            labels = self._sample_labels(self._base, BASE_LABEL, epoch, step)
        if self.sampler is None:
            return BatchIds(real, _NONE, _NONE, labels, _NONE)
        ids = BatchIds(
            real=real if self._data == "both" else _NONE,
            seen=self.sampler.sample(labels, SEEN, epoch, step, global_step),
            novel=_NONE,
            labels=labels,
            novel_labels=_NONE,
        )
        if not len(self._novel):
            return ids
        novel = self._sample_labels(self._novel, NOVEL_LABEL, epoch, step)
        rows = self.sampler.sample(novel, NOVEL, epoch, step, global_step)
        return replace(ids, novel=rows, novel_labels=novel)

    @cached_property
    def _synthetic_rows(self) -> Rows:
        """Rows of all synthetic images of the training classes."""
        labels = _NONE if self.synthetic is None else self.synthetic.labels
        return np.flatnonzero(np.isin(labels, np.concatenate([self._base, self._novel])))

    @property
    def steps_per_pass(self) -> int:
        """Number of batches in a pass over all selected images (see `ids_of_pass`)."""
        return self._real_steps + steps(len(self._synthetic_rows), self._batch)

    @property
    def _real_steps(self) -> int:
        return 0 if self._data == "synthetic" or self.epochs is None else steps(len(self.epochs.rows), self._batch)

    def ids_of_pass(self, step: int) -> BatchIds:
        """Return a global batch of a pass over all selected images, which contains either real or synthetic images.

        The pass contains each real image once, regardless of its dataset's weight, and then each synthetic image
        of the training classes once, as seen images in shard order. Images repeated to fill a batch have label -1.
        """
        real = self._real_steps
        if step < real:
            assert self.epochs is not None and self.real is not None
            count = len(self.epochs.rows)
            rows = self.epochs.rows[batch_of(count, self._batch, self._seed, 0, step)]
            return BatchIds(rows, _NONE, _NONE, self._without_repeats(self.real, rows, step, count), _NONE)
        assert self.synthetic is not None and step < self.steps_per_pass, f"step {step} of {self.steps_per_pass}"
        count = len(self._synthetic_rows)
        rows = self._synthetic_rows[((step - real) * self._batch + np.arange(self._batch)) % count]
        return BatchIds(_NONE, rows, _NONE, self._without_repeats(self.synthetic, rows, step - real, count), _NONE)

    def _without_repeats(self, source: ImageSet, rows: Rows, step: int, count: int) -> Rows:
        """Return the labels of the rows in a batch of a pass over `count` images, with -1 for repeats."""
        labels: Rows = np.where(step * self._batch + np.arange(self._batch) < count, source.labels[rows], -1)
        return labels

    def repeated(self, global_step: int, rank: int, world_size: int) -> int:
        """Return the number of repeated images, which are the last real images in a rank's batch."""
        if self.epochs is None or self._data == "synthetic":
            return 0
        positions = global_step * self._batch + np.arange(rank, self._batch, world_size)
        return int((positions >= len(self.epochs)).sum())

    def share_seen(self, epochs: int) -> float | None:
        """Return the fraction of synthetic images used in `epochs` epochs, or None without synthetic images."""
        if self.synthetic is None:
            return None
        seen = np.zeros(len(self.synthetic), bool)
        for epoch, step in itertools.product(range(epochs), range(self.steps_per_epoch)):
            ids = self.ids(epoch, step)
            seen[ids.seen] = seen[ids.novel] = True
        return float(seen.mean())

    def _sample_labels(self, labels: Rows, purpose: int, epoch: int, step: int) -> Rows:
        bounds = np.full(self._batch, len(labels))
        return labels[below(bounds, key(purpose, self._seed, epoch, step))]


class RealEpochs:
    """The real images in each epoch, as row indices into the concatenated datasets."""

    def __init__(self, sources: Sequence[MixedSource[ImageSet]], seed: int) -> None:
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
            rows if count == len(rows) else rows[shown_items(len(rows), count, key(self._seed, number), epoch)]
            for number, (rows, count) in enumerate(zip(self._rows, self._counts, strict=True))
        ]
        return np.concatenate(parts)


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
                seed=key(SOURCE, seed, number) if number else seed,
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
            sets = choose(available * self._weights, key(SOURCE, purpose, self._seed, epoch, step))
        bounds = np.array([len(choices[number][i]) for i, number in enumerate(sets)], np.int64)
        numbers = below(bounds, key(purpose, self._seed, epoch, step))
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
        self._steps_per_window = steps_per_window(len(images), len(self._shards), sampled)
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
        return window(len(self._shards), self._width, self._seed, position)

    def _by_label(self, window: tuple[int, ...]) -> tuple[Rows, Rows]:
        """Return the rows of the window's shards, sorted by label, and their labels."""
        rows = np.sort(np.concatenate([np.arange(*run) for shard in window for run in self._runs[shard]]))
        labels = self._images.labels[rows]
        by_label = np.argsort(labels, kind="stable")
        return rows[by_label], labels[by_label]


def steps(n: int, batch: int) -> int:
    """Return the number of batches in an epoch of n items, including an incomplete last batch."""
    return -(-n // batch)


def batch_of(n: int, batch: int, seed: int, epoch: int, step: int) -> Rows:
    """Return the items in batch `step` of an epoch over n items, with shape (batch,).

    Batches are consecutive slices of the epoch's permutation, which wraps around in the last batch.
    """
    return permutation(n, seed, epoch)[(step * batch + np.arange(batch)) % n]


def shown_items(n: int, count: int, seed: int, epoch: int) -> Rows:
    """Return the items of an epoch that covers only `count` of n items, with shape (count,).

    Epochs are consecutive slices of an infinite sequence of permutations, in which all items appear equally often.
    """
    positions = epoch * count + np.arange(count)
    sweeps = range(int(positions[0]) // n, int(positions[-1]) // n + 1)
    orders = np.concatenate([permutation(n, key(SOURCE, seed), sweep) for sweep in sweeps])
    items: Rows = orders[positions - positions[0] // n * n]
    return items


def window(shards: int, width: int, seed: int, position: int) -> tuple[int, ...]:
    """Return the shards in the window at a position (at most `width` of `shards`), in ascending order.

    The window slides by one shard per position over an infinite sequence of sweeps, which are permutations of the
    shards. At the boundary between two sweeps, a shard may occur twice, in which case the window contains fewer
    distinct shards.
    """
    if shards <= width:
        return tuple(range(shards))
    opened = set()
    for index in range(position, position + width):
        sweep, offset = divmod(index, shards)
        opened.add(int(permutation(shards, key(WINDOW, seed), sweep)[offset]))
    return tuple(sorted(opened))


def steps_per_window(images: int, shards: int, drawn: int) -> int:
    """Return the number of steps between window moves, chosen so that a sweep covers the dataset about once.

    Args:
        images, shards: numbers of images and shards in the dataset.
        drawn: number of images sampled from the dataset per batch.
    """
    return max(1, -(-images // (shards * max(1, drawn))))
