"""Learned vectors behind a tower's first token, which later tokens see and which have outputs of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from syncclip.clip.text_tower import TextTower
from syncclip.clip.vision_tower import VisionTower
from syncclip.core.settings import UserError


@dataclass(frozen=True)
class Inserted:
    """K vectors behind the start token of a text or the class token of an image; they have no positions.

    Attributes:
        vectors: (K, width), or (B, K, width) for each image, by block, counted from 0. Before the first of these blocks
            they are inserted; before each further one they take the place of what has become of those before.
    """

    vectors: Mapping[int, Tensor]

    @property
    def count(self) -> int:
        """K."""
        return next(iter(self.vectors.values())).shape[-2]

    def enter(self, x: Tensor, block: int) -> Tensor:
        """What enters a block: tokens (*, T, width), with the block's vectors among them if it has any."""
        if block not in self.vectors:
            return x
        vectors = self.vectors[block].to(x.dtype).expand(*x.shape[:-2], -1, -1)
        behind = 1 if block == min(self.vectors) else 1 + self.count
        return torch.cat([x[..., :1, :], vectors, x[..., behind:, :]], dim=-2)


def check_towers(text: TextTower, vision: VisionTower, backbone: str) -> None:
    """Refuse towers without a first token that serves.

    A text's later tokens must be all that sees it, since texts share what stands before the class name; an image's must
    be the one that is read.

    Raises:
        UserError: a tower is of another kind.
    """
    if not text.causal:
        reason = "in its text tower every token attends to all others"
    elif not vision.reads_class_token:
        reason = "its vision tower pools other tokens than a class token"
    else:
        return
    raise UserError(
        f"backbone.name: the method's tokens stand behind the first one of either tower, and '{backbone}' has no place "
        f"for them ({reason}); use a model such as 'ViT-B-16', or a method that learns prompts"
    )
