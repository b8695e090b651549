"""The text tower in the parts that prompts need: open_clip's own transformer, causal or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TextTower:
    """The parts of a text transformer. Not a module, so that nothing is registered twice.

    Args:
        module: open_clip's `CLIP`, which has the parts itself, or its `TextTransformer`.
        pool: the token whose output is the feature: the one with the largest id (CLIP's end token), the first one with
            id `end`, or the last one of the context, usually padding (SigLIP, CLIPA).
    """

    module: Any
    pool: Literal["argmax", "eos", "last"]
    end: int

    @property
    def token_embedding(self) -> nn.Embedding:
        embedding: nn.Embedding = self.module.token_embedding
        return embedding

    @property
    def blocks(self) -> nn.ModuleList:
        blocks: nn.ModuleList = self.module.transformer.resblocks
        return blocks

    @property
    def width(self) -> int:
        return self.token_embedding.embedding_dim

    @property
    def layers(self) -> int:
        return len(self.blocks)

    @property
    def context(self) -> int:
        return int(self.module.context_length)

    @property
    def dim(self) -> int:
        """Length of the features."""
        projection = self.module.text_projection
        if isinstance(projection, nn.Linear):
            return projection.out_features
        return self.width if projection is None else int(projection.shape[1])

    @property
    def causal(self) -> bool:
        """Whether a token attends only to earlier ones. Only then may texts be cut after the token that is read."""
        return self.module.attn_mask is not None

    def read(self, ids: Tensor) -> Tensor:
        """Positions (C,) of the tokens whose output is the feature, for whole texts (C, context)."""
        if self.pool == "last":
            return torch.full((len(ids),), ids.shape[1] - 1)
        return ids.argmax(dim=-1) if self.pool == "argmax" else (ids == self.end).int().argmax(dim=-1)

    def positions(self, length: int) -> Tensor:
        """(length, width) positional embedding of the first tokens."""
        positions: Tensor = self.module.positional_embedding[:length]
        return positions

    def mask(self, rows: slice | Tensor, length: int) -> Tensor | None:
        """Attention mask of these tokens over the first `length`: (Q, length), or (C, 1, length) for one a text."""
        if not self.causal:
            return None
        mask: Tensor = self.module.attn_mask[rows, :length]
        return mask if isinstance(rows, slice) else mask[:, None]

    def project(self, x: Tensor) -> Tensor:
        """Features (*, dim) from the last block's output (*, width)."""
        x = self.module.ln_final(x)
        projection = self.module.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection
        return x


def text_tower(model: Any) -> TextTower | None:
    """The text tower of an open_clip model; None for one that works differently, such as CoCa's or RoBERTa."""
    # Imported late: these take seconds, which reading settings should not.
    from open_clip.model import CLIP
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer

    module = model if isinstance(model, CLIP) else getattr(model, "text", None)
    if not isinstance(module, CLIP | TextTransformer):
        return None
    prefix = "text_" if isinstance(module, CLIP) else ""
    tower = TextTower(module, getattr(module, f"{prefix}pool_type"), getattr(module, f"{prefix}eos_id"))
    plain = all(isinstance(block, ResidualAttentionBlock) for block in tower.blocks)
    # With a class token after the text, or a padding mask, attention depends on each text's length.
    by_length = getattr(module, "cls_emb", None) is not None or getattr(module, "use_pad_mask", False)
    return tower if plain and not by_length and tower.pool in ("argmax", "eos", "last") else None
