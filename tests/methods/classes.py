"""Five classes, three of them base classes, and batches of noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from tests.methods.parity import Batch

NOT_LEARNED = ("class_vectors", "running_mean", "running_var", "narrow.bias", "classifier")
"""Parameters without gradient: class vectors and statistics of PromptKD, its bias before batch norm, and the classifier
of the second stage of 2SFS."""

SIZES = [((4, 0, 0), 3), ((0, 4, 4), 5), ((4, 4, 4), 5)]
"""Numbers of real, seen and novel images of a batch, and its number of candidate classes."""


@dataclass
class Classes:
    classnames: list[str] = field(default_factory=lambda: ["cat", "dog", "sun", "blue car", "tree"])
    template: str = "a photo of a {}."
    base: list[int] = field(default_factory=lambda: [0, 1, 2])


DATASET = Classes()


def batch(real: int = 4, seen: int = 4, novel: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(max(real, seen)) % 3
    return Batch(
        images=torch.randn(real + seen + novel, 3, 32, 32, generator=generator),
        labels=torch.cat([labels[:real], labels[:seen], 3 + torch.arange(novel) % 2]),
        domains=torch.tensor([0] * real + [1] * (seen + novel)),
        sizes=(real, seen, novel),
    )
