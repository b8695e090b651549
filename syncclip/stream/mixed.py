"""The mixed stream: batches of real images, synthetic images of the same classes, and images of novel classes.

A batch's images are a pure function of (seed, epoch, step) and the committed shards. Only the step number is required
to resume. Global batches do not depend on the number of ranks: 1 × 8, 2 × 4 and 4 × 2 (ranks × batch size) are
equivalent.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from syncclip.core.settings import UserError
from syncclip.core.text import few
from syncclip.shards.images import Corruption, DecodedImages, UnreadableImageError
from syncclip.shards.index import Rows
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.stream import order
from syncclip.stream.batch import Batch, empty_batch
from syncclip.stream.sources import MixedSource, RealEpochs, SyntheticSampler, joined
from syncclip.stream.teacher import Teacher

REAL, SYNTHETIC = 0, 1  # domains

Transform = Callable[[Image.Image, torch.Generator], Tensor]
Allocator = Callable[[int, Tensor], Tensor]
"""Function (images, example) -> uninitialised (images, 3, H, W) tensor with the example's type and memory format."""
Data = Literal["real", "synthetic", "both"]
EpochsOver = Literal["real", "synthetic", "longer"]

_NONE: Rows = np.empty(0, np.int64)


@dataclass(frozen=True)
class BatchIds:
    """A global batch for all ranks, as row indices into the real and synthetic datasets; unused groups are empty."""

    real: Rows  # (B,) rows of the real dataset, with `labels`
    seen: Rows  # (B,) rows of the synthetic dataset, with `labels`
    novel: Rows  # (B,) rows of the synthetic dataset, with `novel_labels`
    labels: Rows  # (B,)
    novel_labels: Rows  # (B,)


class MixedStream:
    """Infinite stream of global batches with B images per group: real, seen (synthetic, same labels) and novel.

    `data="real"` yields only the real group, `"synthetic"` the seen and novel groups, and `"both"` all three groups.
    Without novel classes, there is no novel group. Real images are reshuffled for every pass over the real data; an
    incomplete last batch is filled with the first images of the same pass. Synthetic images of a class are sampled
    uniformly from a moving window of a few shards, or from all shards if the window does not contain the class. One
    epoch is one pass over the real data, or the number of steps needed to sample as many images as the synthetic
    datasets contain.

    Corrupt images are logged, counted, and replaced by the next intact image of the same class. Thread-safe.
    """

    def __init__(
        self,
        real: Sequence[MixedSource[ImageSet]],
        synthetic: Sequence[MixedSource[ShardSet]],
        *,
        transform: Transform,
        batch: int,
        seed: int,
        base: Sequence[int],
        novel: Sequence[int] = (),
        data: Data = "both",
        epochs_over: EpochsOver = "real",
        images_per_class: int | None = None,
        window: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        max_corrupt_images: int = 16,
        cache_images: int = 256 << 20,
        teacher: Teacher | None = None,
    ) -> None:
        """
        Args:
            real: real datasets. `data="synthetic"` uses only the labels of the real images, or labels sampled from
                `base` if there are no real datasets.
            synthetic: synthetic datasets; may be empty only if `data="real"`.
            transform: function (RGB image, generator) -> (3, H, W) tensor. The generator's seed is a function of (seed,
                epoch, step, group, position). The image is shared and must not be modified.
            batch: global batch size B, a multiple of `world_size`.
            base, novel: ids of the base and novel classes.
            epochs_over: images that determine the length of an epoch; "longer" selects the longer of "real" and
                "synthetic".
            images_per_class: number of images per class to use from each synthetic dataset; by default, all images.
            window: number of shards per dataset from which a step's images are sampled; by default, all shards.
            rank, world_size: index of this process and number of processes. This process reads the positions rank,
                rank + world_size, … of each group.
            max_corrupt_images: maximum number of corrupt images to replace before raising an error.
            cache_images: memory limit for decoded images, in bytes; does not affect results.
            teacher: soft labels of synthetic images; requires a single synthetic dataset.

        Raises:
            UserError: a required dataset or image is missing, or the arguments are inconsistent.
        """
        if batch < 1 or batch % world_size:
            problem = f"a batch of {batch} image(s) can't be split evenly among {world_size} worker(s)"
            raise UserError(f"{problem}; set training.batch_size to a multiple of {world_size}")
        assert 0 <= rank < world_size
        self.data, self.batch_size, self.seed, self.rank, self.world_size = data, batch, seed, rank, world_size
        self.transform, self.corruption = transform, Corruption(max_corrupt_images)
        self._cache_images, self._decoded, self.teacher = cache_images, DecodedImages(cache_images), teacher
        self._allocate: Allocator = empty_batch
        self._base, self.novel = np.asarray(base, np.int64), np.asarray(novel if data != "real" else (), np.int64)
        if not real and data != "synthetic":
            raise UserError(
                f"training.data={data} requires real images; add a real dataset, or set training.data=synthetic"
            )
        if not synthetic and data != "real":
            raise UserError(
                f"training.data={data} requires a synthetic dataset; generate one, or set training.data=real"
            )
        self.real = joined(real) if real else None
        self._epochs = RealEpochs(real, seed) if real else None
        self.synthetic = self._open_synthetic(synthetic, images_per_class, window) if data != "real" else None
        self.steps_per_round = order.steps(self._round_images(), batch)
        """Number of batches in a pass over the real images."""
        self.steps_per_epoch = self._steps(epochs_over)
        """Number of batches in an epoch."""

    def _open_synthetic(
        self, sources: Sequence[MixedSource[ShardSet]], images_per_class: int | None, window: int | None
    ) -> ImageSet:
        if images_per_class is not None:
            sources = [replace(source, images=source.images.subset(images_per_class)) for source in sources]
        images = joined(sources)
        self._check_labels(images, ", ".join(source.images.url for source in sources))
        for source in sources:
            self.corruption.include(source.images.corruption.account())
        self._sampler = SyntheticSampler(sources, seed=self.seed, width=window, sampled=self._sampled())
        return images

    def _sampled(self) -> int:
        """Return the number of synthetic images per step."""
        return self.batch_size * (2 if len(self.novel) else 1)

    def _round_images(self) -> int:
        """Return the number of real images or, if there are no real datasets, of synthetic images of base classes."""
        if self._epochs is not None:
            return len(self._epochs)
        assert self.synthetic is not None
        return int(np.isin(self.synthetic.labels, self._base).sum())

    def _steps(self, epochs_over: EpochsOver) -> int:
        if self.synthetic is None or epochs_over == "real":
            return self.steps_per_round
        steps = order.steps(len(self.synthetic), self._sampled())
        return steps if epochs_over == "synthetic" else max(steps, self.steps_per_round)

    def ids(self, epoch: int, step: int) -> BatchIds:
        """Return a step's global batch, which is a pure function of (seed, epoch, step) and identical on all ranks."""
        assert 0 <= step < self.steps_per_epoch, f"step {step} of {self.steps_per_epoch}"
        if self._epochs is not None and self.real is not None:
            round_number, step_in_round = divmod(self._global_step(epoch, step), self.steps_per_round)
            batch = order.batch_of(len(self._epochs), self.batch_size, self.seed, round_number, step_in_round)
            real = self._epochs.rows_of_epoch(round_number)[batch]
            labels = self.real.labels[real]
        else:
            real = _NONE
            labels = self._sample(self._base, order.BASE_LABEL, epoch, step)
        if self.synthetic is None:
            return BatchIds(real, _NONE, _NONE, labels, _NONE)
        ids = BatchIds(
            real=real if self.data == "both" else _NONE,
            seen=self._sampler.sample(labels, order.SEEN, epoch, step, self._global_step(epoch, step)),
            novel=_NONE,
            labels=labels,
            novel_labels=_NONE,
        )
        if not len(self.novel):
            return ids
        novel = self._sample(self.novel, order.NOVEL_LABEL, epoch, step)
        rows = self._sampler.sample(novel, order.NOVEL, epoch, step, self._global_step(epoch, step))
        return replace(ids, novel=rows, novel_labels=novel)

    def batch(self, epoch: int, step: int, view: int = 0) -> Batch:
        """Decode and transform this rank's part of a step's batch.

        Args:
            view: index of the augmentation; training uses 0.

        Raises:
            UserError: more than `max_corrupt_images` images are corrupt, or all images of a class are corrupt.
        """
        ids = self.ids(epoch, step)
        if self.synthetic is not None:
            self._sampler.fetch(self._global_step(epoch, step))
        local = slice(self.rank, None, self.world_size)
        groups = [
            (self.real, ids.real[local], ids.labels[local], REAL),
            (self.synthetic, ids.seen[local], ids.labels[local], SYNTHETIC),
            (self.synthetic, ids.novel[local], ids.novel_labels[local], SYNTHETIC),
        ]
        count = sum(len(rows) for _, rows, _, _ in groups)
        images: Tensor | None = None
        generator = torch.Generator()
        labels, domains, read = [], [], list[int]()
        for number, (source, rows, group_labels, domain) in enumerate(groups):
            positions = self.rank + np.arange(len(rows)) * self.world_size
            seeds = order.keys(order.AUGMENT, self.seed, epoch, step, number + view * len(groups), last=positions)
            for row, seed in zip(rows.tolist(), seeds, strict=True):
                assert source is not None
                generator.manual_seed(seed >> 1)
                decoded, row = self._image(source, row, domain)
                image = self.transform(decoded, generator)
                if images is None:
                    images = self._allocate(count, image)
                # `copy_` would broadcast.
                assert image.shape == images.shape[1:], "transforms must return images of the same shape"
                images[len(read)].copy_(image)  # while the image is in the CPU cache
                read.append(row)
            labels.append(group_labels[: len(rows)])
            domains.append(np.full(len(rows), domain, np.int64))
        assert images is not None, "a batch must contain images"
        sizes = len(groups[0][1]), len(groups[1][1]), len(groups[2][1])
        soft_labels = None
        if self.teacher is not None and self.synthetic is not None:
            soft_labels = torch.from_numpy(self.teacher.of_batch(self.synthetic, read, sizes[0]))
        return Batch(
            images=images,
            labels=torch.from_numpy(np.concatenate(labels)),
            domains=torch.from_numpy(np.concatenate(domains)),
            sizes=sizes,
            teacher=soft_labels,
        )

    def repeated(self, step: int) -> int:
        """Return how many of the last real images in this rank's batch at global `step` are repeats."""
        if self._epochs is None or self.data == "synthetic":
            return 0
        positions = step * self.batch_size + np.arange(self.rank, self.batch_size, self.world_size)
        return int((positions >= len(self._epochs)).sum())

    def share_seen(self, epochs: int) -> float | None:
        """Return the fraction of synthetic images used in `epochs` epochs, or None without synthetic images."""
        if self.synthetic is None:
            return None
        seen = np.zeros(len(self.synthetic), bool)
        for epoch, step in itertools.product(range(epochs), range(self.steps_per_epoch)):
            ids = self.ids(epoch, step)
            seen[ids.seen] = seen[ids.novel] = True
        return float(seen.mean())

    def after_fork(self, processes: int, allocate: Allocator) -> None:
        """Reset the count of corrupt images, and divide the cache size by the number of `processes`."""
        self._allocate = allocate
        self.corruption = Corruption(None)
        self._decoded = DecodedImages(self._cache_images // processes)

    def _global_step(self, epoch: int, step: int) -> int:
        return epoch * self.steps_per_epoch + step

    def _sample(self, labels: Rows, purpose: int, epoch: int, step: int) -> Rows:
        bounds = np.full(self.batch_size, len(labels))
        return labels[order.below(bounds, order.key(purpose, self.seed, epoch, step))]

    def _image(self, source: ImageSet, row: int, domain: int) -> tuple[Image.Image, int]:
        """Return the image at `row` or, if it is corrupt, the next intact image of its class, together with its row."""
        image = self._decoded_or_none(source, row, domain)
        if image is not None:
            return image, row
        label = int(source.labels[row])
        rows = source.rows_of(label)
        if domain == REAL and self._epochs is not None:
            rows = self._epochs.rows[source.labels[self._epochs.rows] == label]
        start = int(np.flatnonzero(rows == row)[0])
        for candidate in np.roll(rows, -start)[1:].tolist():
            image = self._decoded_or_none(source, candidate, domain)
            if image is not None:
                return image, candidate
        raise UserError(f"class id {label}: all {len(rows)} images are unreadable; see the log for their names")

    def _decoded_or_none(self, source: ImageSet, row: int, domain: int) -> Image.Image | None:
        try:
            return self._decoded.get((domain, row), lambda: source.image(row))
        except UnreadableImageError as error:
            self.corruption.skip(error.name, error, error.images)
            return None

    def _check_labels(self, synthetic: ImageSet, url: str) -> None:
        base = self._base
        if self.real is not None and self._epochs is not None:
            base = np.unique(self.real.labels[self._epochs.rows])
        labels = np.unique(np.concatenate([base, self.novel])).tolist()
        missing = [label for label in labels if not len(synthetic.rows_of(label))]
        if missing:
            raise UserError(
                f"{url}: there are no synthetic images of {len(missing)} training class(es) (ids {few(missing)}); "
                "generate images of these classes, or relax the filters"
            )
