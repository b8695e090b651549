"""Five classes, of which three have real images, and batches of noise that claims to show them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from tests.methods.parity import Batch

NOT_LEARNED = ("class_vectors", "running_mean", "running_var", "narrow.bias", "classifier")
"""Parameters without gradient: of PromptKD its teacher's, its statistics, and what batch norm takes away again; of 2SFS
those of the second stage."""


@dataclass
class Classes:
    classnames: list[str] = field(default_factory=lambda: ["cat", "dog", "sun", "blue car", "tree"])
    template: str = "a photo of a {}."
    base: list[int] = field(default_factory=lambda: [0, 1, 2])


DATASET = Classes()


def batch(real: int = 4, seen: int = 4, novel: int = 4) -> Batch:
    chance = torch.Generator().manual_seed(0)
    labels = torch.arange(max(real, seen)) % 3
    return Batch(
        images=torch.randn(real + seen + novel, 3, 32, 32, generator=chance),
        labels=torch.cat([labels[:real], labels[:seen], 3 + torch.arange(novel) % 2]),
        domains=torch.tensor([0] * real + [1] * (seen + novel)),
        sizes=(real, seen, novel),
    )
