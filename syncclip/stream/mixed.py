"""The mixed stream: batches of real images, synthetic images of the same classes, and images of novel classes.

A batch's images are a pure function of (seed, epoch, step) and the committed shards. Resuming requires only the
step number. Global batches do not depend on the number of ranks: 1 × 8, 2 × 4 and 4 × 2 (ranks × batch size) are
equivalent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from syncclip.core.settings import UserError
from syncclip.core.text import few
from syncclip.shards.images import Corruption, DecodedImages, UnreadableImageError
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.stream.batch import Batch, empty_batch
from syncclip.stream.order import BatchIds, Data, EpochsOver, TrainingOrder
from syncclip.stream.random_numbers import AUGMENT, keys
from syncclip.stream.sources import MixedSource
from syncclip.stream.teacher import Teacher

REAL, SYNTHETIC = 0, 1  # domains

Transform = Callable[[Image.Image, torch.Generator], Tensor]
Allocator = Callable[[int, Tensor], Tensor]
"""Function (images, example) -> uninitialised (images, 3, H, W) tensor with the example's type and memory format."""


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
        if not real and data != "synthetic":
            raise UserError(
                f"training.data={data} requires real images; add a real dataset, or set training.data=synthetic"
            )
        if not synthetic and data != "real":
            raise UserError(
                f"training.data={data} requires a synthetic dataset; generate one, or set training.data=real"
            )
        self.data, self.batch_size, self.seed, self.rank, self.world_size = data, batch, seed, rank, world_size
        self.transform, self.corruption = transform, Corruption(max_corrupt_images)
        self._cache_images, self._decoded, self.teacher = cache_images, DecodedImages(cache_images), teacher
        self._allocate: Allocator = empty_batch
        self.novel = np.asarray(novel if data != "real" else (), np.int64)
        if data == "real":
            synthetic = ()
        elif images_per_class is not None:
            synthetic = [replace(source, images=source.images.subset(images_per_class)) for source in synthetic]
        self.order = TrainingOrder(
            real,
            synthetic,
            batch=batch,
            seed=seed,
            base=np.asarray(base, np.int64),
            novel=self.novel,
            data=data,
            epochs_over=epochs_over,
            window=window,
        )
        self.real, self.synthetic = self.order.real, self.order.synthetic
        self.steps_per_epoch = self.order.steps_per_epoch
        """Number of batches in an epoch."""
        if self.synthetic is not None:
            self._check_labels(self.synthetic, base, ", ".join(source.images.url for source in synthetic))
        for source in synthetic:
            self.corruption.include(source.images.corruption.account())

    def batch(self, epoch: int, step: int, view: int = 0) -> Batch:
        """Decode and transform this rank's part of a step's batch.

        Args:
            view: index of the augmentation; training uses 0.

        Raises:
            UserError: more than `max_corrupt_images` images are corrupt, or all images of a class are corrupt.
        """
        ids = self.order.ids(epoch, step)
        if self.order.sampler is not None:
            self.order.sampler.fetch(self.order.global_step(epoch, step))
        return self._read(ids, epoch, step, view)

    def batch_of_pass(self, step: int, view: int = 0) -> Batch:
        """Like `batch`, for a step of a pass over all selected images; see `TrainingOrder.ids_of_pass`."""
        return self._read(self.order.ids_of_pass(step), 0, step, view)

    def _read(self, ids: BatchIds, epoch: int, step: int, view: int) -> Batch:
        """Decode and transform this rank's part of a global batch."""
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
            seeds = keys(AUGMENT, self.seed, epoch, step, number + view * len(groups), last=positions)
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

    def after_fork(self, processes: int, allocate: Allocator) -> None:
        """Reset the count of corrupt images, and divide the cache size by the number of `processes`."""
        self._allocate = allocate
        self.corruption = Corruption(None)
        self._decoded = DecodedImages(self._cache_images // processes)

    def _image(self, source: ImageSet, row: int, domain: int) -> tuple[Image.Image, int]:
        """Return the image at `row` or, if it is corrupt, the next intact image of its class, together with its row."""
        image = self._decoded_or_none(source, row, domain)
        if image is not None:
            return image, row
        label = int(source.labels[row])
        rows = source.rows_of(label)
        if domain == REAL and self.order.epochs is not None:
            rows = self.order.epochs.rows[source.labels[self.order.epochs.rows] == label]
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

    def _check_labels(self, synthetic: ImageSet, base: Sequence[int], url: str) -> None:
        if self.real is not None and self.order.epochs is not None:
            base = np.unique(self.real.labels[self.order.epochs.rows]).tolist()
        labels = np.unique(np.concatenate([base, self.novel])).tolist()
        missing = [label for label in labels if not len(synthetic.rows_of(label))]
        if missing:
            raise UserError(
                f"{url}: there are no synthetic images of {len(missing)} training class(es) (ids {few(missing)}); "
                "generate images of these classes, or relax the filters"
            )
