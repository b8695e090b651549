"""A training batch, and its transfer to another process or device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from syncclip.shards.index import Rows
from syncclip.stream.teacher import Probabilities


@dataclass(frozen=True)
class Batch:
    """One rank's batch: its real, seen and novel images, one group after the other."""

    images: Tensor  # (N, 3, H, W) outputs of the transform; often channels_last
    labels: Tensor  # (N,) long, class ids
    domains: Tensor  # (N,) long, 0 real, 1 synthetic
    sizes: tuple[int, int, int]  # (real, seen, novel) images; their sum is N
    teacher: Tensor | None = None  # (N, C) float32 probabilities of a teacher; zeros for images without any

    def __reduce__(self) -> tuple[Any, ...]:
        """Send all but the images as plain bytes: each tensor in shared memory would open a socket."""
        teacher = None if self.teacher is None else self.teacher.numpy()
        return _unpacked, (self.images, self.labels.numpy(), self.domains.numpy(), self.sizes, teacher)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        teacher = None if self.teacher is None else change(self.teacher)
        return Batch(change(self.images), change(self.labels), change(self.domains), self.sizes, teacher)


def empty_batch(images: int, like: Tensor) -> Tensor:
    """(images, 3, H, W) memory with the layout of one image, `like` (3, H, W).

    Decoded images are channels_last; changing the layout takes 50 µs at 224 pixels, a plain copy 15, decoding 250.
    """
    return torch.empty_like(like.expand(images, *like.shape))


def _unpacked(
    images: Tensor, labels: Rows, domains: Rows, sizes: tuple[int, int, int], teacher: Probabilities | None
) -> Batch:
    probabilities = None if teacher is None else torch.from_numpy(teacher)
    return Batch(images, torch.from_numpy(labels), torch.from_numpy(domains), sizes, probabilities)
