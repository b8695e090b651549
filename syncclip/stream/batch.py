"""Training batches, and their transfer between processes and devices."""

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
    """A rank's batch of images: first real, then seen, then novel images."""

    images: Tensor  # (N, 3, H, W) outputs of the transform, often in channels_last format
    labels: Tensor  # (N,) long, class ids
    domains: Tensor  # (N,) long, 0 for real and 1 for synthetic images
    sizes: tuple[int, int, int]  # numbers of (real, seen, novel) images, which add up to N
    teacher: Tensor | None = None  # (N, C) float32 soft labels; zeros for images without soft labels

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle all tensors except the images as NumPy arrays, since sending a shared tensor opens a socket."""
        teacher = None if self.teacher is None else self.teacher.numpy()
        return _unpickle, (self.images, self.labels.numpy(), self.domains.numpy(), self.sizes, teacher)

    def to(self, device: torch.device | str) -> Batch:
        """Copy the batch to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Copy the batch to pinned memory."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        teacher = None if self.teacher is None else function(self.teacher)
        return Batch(function(self.images), function(self.labels), function(self.domains), self.sizes, teacher)


def empty_batch(images: int, like: Tensor) -> Tensor:
    """Allocate an (images, 3, H, W) tensor with the memory format of `like`, an example image with shape (3, H, W).

    Decoded images are in channels_last format. A 224-pixel image takes 250 µs to decode, 15 µs to copy, and 50 µs to
    convert to a different memory format.
    """
    return torch.empty_like(like.expand(images, *like.shape))


def _unpickle(
    images: Tensor, labels: Rows, domains: Rows, sizes: tuple[int, int, int], teacher: Probabilities | None
) -> Batch:
    probabilities = None if teacher is None else torch.from_numpy(teacher)
    return Batch(images, torch.from_numpy(labels), torch.from_numpy(domains), sizes, probabilities)
