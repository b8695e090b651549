"""A batch as trainings take it: its tensors, on their way to another process or device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from syncclip.shards.samples import Rows


@dataclass(frozen=True)
class Batch:
    """What one rank trains on: its real, seen and novel images, one group after the other."""

    images: Tensor  # (N, 3, H, W), as the transform gives them; often channels_last
    labels: Tensor  # (N,) long, class ids
    domains: Tensor  # (N,) long, 0 real, 1 synthetic
    sizes: tuple[int, int, int]  # (real, seen, novel) images; their sum is N

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process labels and domains go as plain bytes: for a tensor in shared memory a socket is opened."""
        return _unpacked, (self.images, self.labels.numpy(), self.domains.numpy(), self.sizes)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        images, labels, domains = (t.to(device, non_blocking=True) for t in (self.images, self.labels, self.domains))
        return Batch(images, labels, domains, self.sizes)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory."""
        images, labels, domains = (t.pin_memory() for t in (self.images, self.labels, self.domains))
        return Batch(images, labels, domains, self.sizes)


def empty_batch(images: int, like: Tensor) -> Tensor:
    """(images, 3, H, W) memory with the layout of one of them, `like` (3, H, W).

    What comes from an image has its colours side by side. To take them apart costs 50 µs at 224 pixels, a plain copy
    15, and decoding 250.
    """
    return torch.empty_like(like.expand(images, *like.shape))


def _unpacked(images: Tensor, labels: Rows, domains: Rows, sizes: tuple[int, int, int]) -> Batch:
    return Batch(images, torch.from_numpy(labels), torch.from_numpy(domains), sizes)
