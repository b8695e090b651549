"""Learned vectors inserted after a tower's first token, as in MMRL."""

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
    """K vectors without positional embedding, inserted after the start token of a text or the class token of an image.

    Attributes:
        vectors: maps block indices to vectors (K, width), or (B, K, width) with K vectors per image. The vectors are
            inserted before the first of these blocks and replaced before each later block.
    """

    vectors: Mapping[int, Tensor]

    @property
    def count(self) -> int:
        """Number of vectors (K)."""
        return next(iter(self.vectors.values())).shape[-2]

    def enter(self, x: Tensor, block: int) -> Tensor:
        """Insert a block's vectors, if any, into its tokens (*, T, width), replacing those of earlier blocks."""
        if block not in self.vectors:
            return x
        vectors = self.vectors[block].to(x.dtype).expand(*x.shape[:-2], -1, -1)
        rest = 1 if block == min(self.vectors) else 1 + self.count
        return torch.cat([x[..., :1, :], vectors, x[..., rest:, :]], dim=-2)


def check_towers(text: TextTower, vision: VisionTower, backbone: str) -> None:
    """Raise a UserError unless the text tower is causal and the vision tower pools only its class token."""
    if not text.causal:
        reason = "its text tower is not causal"
    elif not vision.reads_class_token:
        reason = "its vision tower does not pool a single class token"
    else:
        return
    raise UserError(
        f"backbone.name: '{backbone}' does not support the inserted tokens that the method requires, because {reason}; "
        "use a model such as 'ViT-B-16', or a method that learns prompts"
    )
