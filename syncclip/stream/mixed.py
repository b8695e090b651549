"""The mixed stream: real images beside synthetic ones of the same and of novel classes, batch by batch.

Which images make batch `step` of epoch `epoch` is a pure function of (seed, epoch, step) over the committed shards:
resuming is a counter, and 1 × 8, 2 × 4 and 4 × 2 (ranks × batch) see the same global batches.
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

from syncclip.core import order
from syncclip.core.settings import UserError
from syncclip.core.text import few
from syncclip.shards.images import Corruption, DecodedImages, UnreadableImageError
from syncclip.shards.index import Rows
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.stream.batch import Batch, empty_batch
from syncclip.stream.sources import MixedSource, RealEpochs, SyntheticSampler, joined
from syncclip.stream.teacher import Teacher

REAL, SYNTHETIC = 0, 1  # domains

Transform = Callable[[Image.Image, torch.Generator], Tensor]
Room = Callable[[int, Tensor], Tensor]
"""(images, one of them) -> (images, 3, H, W) of its type and layout, to be filled."""
Data = Literal["real", "synthetic", "both"]
EpochsOver = Literal["real", "synthetic", "longer"]

_NONE: Rows = np.empty(0, np.int64)


@dataclass(frozen=True)
class BatchIds:
    """The whole batch of all ranks together, as rows of the two sets; a group that is not trained on is empty."""

    real: Rows  # (B,) rows of the real set, showing `labels`
    seen: Rows  # (B,) rows of the synthetic set, showing `labels`
    novel: Rows  # (B,) rows of the synthetic set, showing `novel_labels`
    labels: Rows  # (B,)
    novel_labels: Rows  # (B,)


class MixedStream:
    """Endless global batches of B images a group: real, seen (synthetic, same labels), novel (synthetic, novel labels).

    `data="real"` gives the first group alone, `"synthetic"` the other two, `"both"` all; without novel classes there is
    no novel group. Real images come in rounds, each once through all of them in a new order; a last batch that is not
    full goes on with the first images of the round. Synthetic images are sampled uniformly from those of their class
    in the window, a few shards at a time (from all of its images, where the window holds none). An epoch is a round,
    or as many steps as it takes to sample as many synthetic images as there are.

    Reading is one path for all: bytes by offset, decode, cache, transform. A damaged image is replaced by the next
    sound one of its class, counted, and named in the log. Safe to use from several threads; make a new one in another
    process.
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
            real: Sets of real images; with `data="synthetic"` only their labels are used, and without any, labels are
                sampled from `base`.
            synthetic: The synthetic sets; without any only with `data="real"`.
            transform: (RGB image, generator) -> (3, H, W) tensor. The generator's seed is a function of (seed, epoch,
                step, group, position); the image is shared and must not be changed in place.
            batch: Global B, a multiple of `world_size`.
            seed: Of everything that is random.
            base, novel: Class ids.
            epochs_over: What an epoch's length follows; "longer" is the one of both that takes more steps.
            images_per_class: Only the first so many synthetic images of each class of each set; None for all.
            window: Shards of a set from which the images of one step come; None for all.
            rank, world_size: Which part is this process's: positions rank, rank + world_size, … of every group.
            max_corrupt_images: Damaged images that may be replaced before it is an error.
            cache_images: Bytes that decoded images may take in memory; results do not depend on it.
            teacher: Whose probabilities of synthetic images come with a batch; of the only synthetic set.

        Raises:
            UserError: A set or an image that is needed is missing, or the numbers do not fit each other.
        """
        if batch < 1 or batch % world_size:
            raise UserError(f"a batch of {batch} cannot be shared out to {world_size} worker(s); give a multiple of it")
        assert 0 <= rank < world_size
        self.data, self.batch_size, self.seed, self.rank, self.world_size = data, batch, seed, rank, world_size
        self.transform, self.corruption = transform, Corruption(max_corrupt_images)
        self._cache_images, self._decoded, self.teacher = cache_images, DecodedImages(cache_images), teacher
        self._room: Room = empty_batch
        self._base, self.novel = np.asarray(base, np.int64), np.asarray(novel if data != "real" else (), np.int64)
        if not real and data != "synthetic":
            raise UserError(f"training on {data!r} data needs real images; give them or train on 'synthetic'")
        if not synthetic and data != "real":
            raise UserError(f"training on {data!r} data needs a synthetic set; make one first or train on 'real'")
        self.real = joined(real) if real else None
        self._epochs = RealEpochs(real, seed) if real else None
        self.synthetic = self._open_synthetic(synthetic, images_per_class, window) if data != "real" else None
        self.steps_per_round = order.steps(self._round_images(), batch)
        """Batches in which each real image is shown once, the last one filled up."""
        self.steps_per_epoch = self._steps(epochs_over)
        """Batches of an epoch."""

    def _open_synthetic(
        self, sources: Sequence[MixedSource[ShardSet]], images_per_class: int | None, window: int | None
    ) -> ImageSet:
        if images_per_class is not None:
            sources = [replace(one, images=one.images.subset(images_per_class)) for one in sources]
        images = joined(sources)
        self._check_labels(images, ", ".join(one.images.url for one in sources))
        for one in sources:
            self.corruption.include(one.images.corruption.account())
        drawn = self.batch_size * (2 if len(self.novel) else 1)
        self._sampler = SyntheticSampler(sources, seed=self.seed, width=window, drawn=drawn)
        return images

    def _round_images(self) -> int:
        """Real images, or where none are given, synthetic ones of base classes."""
        if self._epochs is not None:
            return len(self._epochs)
        assert self.synthetic is not None, "one of both is there"
        return int(np.isin(self.synthetic.labels, self._base).sum())

    def _steps(self, epochs_over: EpochsOver) -> int:
        if self.synthetic is None or epochs_over == "real":
            return self.steps_per_round
        passes = order.steps(len(self.synthetic), self.batch_size * (2 if len(self.novel) else 1))
        return passes if epochs_over == "synthetic" else max(passes, self.steps_per_round)

    def ids(self, epoch: int, step: int) -> BatchIds:
        """The global batch of a step: a pure function of (seed, epoch, step), the same on every rank."""
        assert 0 <= step < self.steps_per_epoch, f"step {step} of {self.steps_per_epoch}"
        if self._epochs is not None and self.real is not None:
            number, place = divmod(self._global_step(epoch, step), self.steps_per_round)
            batch = order.batch_of(len(self._epochs), self.batch_size, self.seed, number, place)
            real = self._epochs.shown(number)[batch]
            labels = self.real.labels[real]
        else:
            real = _NONE
            labels = self._drawn(self._base, order.BASE_LABEL, epoch, step)
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
        novel = self._drawn(self.novel, order.NOVEL_LABEL, epoch, step)
        partners = self._sampler.sample(novel, order.NOVEL, epoch, step, self._global_step(epoch, step))
        return replace(ids, novel=partners, novel_labels=novel)

    def batch(self, epoch: int, step: int, view: int = 0) -> Batch:
        """This rank's part of the batch of a step, decoded and transformed.

        Args:
            view: The images are the same in all; each transforms them with chance of its own, and training sees 0.

        Raises:
            UserError: More images than `max_corrupt_images` are damaged, or all of a class.
        """
        ids = self.ids(epoch, step)
        if self.synthetic is not None:
            self._sampler.fetch(self._global_step(epoch, step))
        mine = slice(self.rank, None, self.world_size)
        groups = [
            (self.real, ids.real[mine], ids.labels[mine], REAL),
            (self.synthetic, ids.seen[mine], ids.labels[mine], SYNTHETIC),
            (self.synthetic, ids.novel[mine], ids.novel_labels[mine], SYNTHETIC),
        ]
        count = sum(len(rows) for _, rows, _, _ in groups)
        images: Tensor | None = None
        generator = torch.Generator()
        labels, domains, read = [], [], list[int]()
        for number, (source, rows, shown, domain) in enumerate(groups):
            positions = self.rank + np.arange(len(rows)) * self.world_size
            seeds = order.keys(order.AUGMENT, self.seed, epoch, step, number + view * len(groups), last=positions)
            for row, seed in zip(rows.tolist(), seeds, strict=True):
                assert source is not None
                generator.manual_seed(seed >> 1)
                found, row = self._image(source, row, domain)
                image = self.transform(found, generator)
                if images is None:
                    images = self._room(count, image)
                assert image.shape == images.shape[1:], "a transform gives one shape"  # another might be spread over it
                images[len(read)].copy_(image)  # at once, while it is in the processor's cache
                read.append(row)
            labels.append(shown[: len(rows)])
            domains.append(np.full(len(rows), domain, np.int64))
        assert images is not None, "a batch shows something"
        taught = None if self.teacher is None else self.teacher.of_batch(self.synthetic, read, len(groups[0][1]))
        return Batch(
            images=images,
            labels=torch.from_numpy(np.concatenate(labels)),
            domains=torch.from_numpy(np.concatenate(domains)),
            sizes=(len(groups[0][1]), len(groups[1][1]), len(groups[2][1])),
            teacher=None if taught is None else torch.from_numpy(taught),
        )

    def repeated(self, step: int) -> int:
        """How many of this rank's real images of a step, counted over epochs, the last ones, were shown before."""
        if self._epochs is None or self.data == "synthetic":
            return 0
        positions = step * self.batch_size + np.arange(self.rank, self.batch_size, self.world_size)
        return int((positions >= len(self._epochs)).sum())

    def window(self, epoch: int, step: int) -> list[list[int]]:
        """The numbers of the shards from which the synthetic images of a step come, for each set."""
        return [window.shards(self._global_step(epoch, step)) for window in self._sampler.windows]

    def share_seen(self, epochs: int) -> float | None:
        """Share of the synthetic images that so many epochs show at least once; None without synthetic images."""
        if self.synthetic is None:
            return None
        seen = np.zeros(len(self.synthetic), bool)
        for epoch, step in itertools.product(range(epochs), range(self.steps_per_epoch)):
            ids = self.ids(epoch, step)
            seen[ids.seen] = seen[ids.novel] = True
        return float(seen.mean())

    def begin_anew(self, processes: int, room: Room) -> None:
        """In one of several forked processes: count what is lost from here on, and keep a share of the memory.

        Args:
            processes: How many there are.
            room: Gives the memory for a batch's images.
        """
        self._room = room
        self.corruption = Corruption(None)
        self._decoded = DecodedImages(self._cache_images // processes)

    def _global_step(self, epoch: int, step: int) -> int:
        return epoch * self.steps_per_epoch + step

    def _drawn(self, labels: Rows, purpose: int, epoch: int, step: int) -> Rows:
        bounds = np.full(self.batch_size, len(labels))
        return labels[order.below(bounds, order.key(purpose, self.seed, epoch, step))]

    def _image(self, source: ImageSet, row: int, domain: int) -> tuple[Image.Image, int]:
        """The image of a row, or of the next sound row of its class; and which row it is."""
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
        raise UserError(f"class {label}: not one of its images ({len(rows)}) can be read; the log names them")

    def _decoded_or_none(self, source: ImageSet, row: int, domain: int) -> Image.Image | None:
        try:
            return self._decoded.get((domain, row), lambda: source.image(row))
        except UnreadableImageError as error:
            self.corruption.skip(error.name, error, error.images)
            return None

    def _check_labels(self, synthetic: ImageSet, place: str) -> None:
        shown = self._base
        if self.real is not None and self._epochs is not None:
            shown = np.unique(self.real.labels[self._epochs.rows])
        wanted = np.unique(np.concatenate([shown, self.novel])).tolist()
        missing = [label for label in wanted if not len(synthetic.rows_of(label))]
        if len(missing):
            raise UserError(
                f"{place}: no synthetic image of {len(missing)} class(es) that are trained on (ids {few(missing)}); "
                "make a set of this dataset, or loosen the filters"
            )
