"""Components of open_clip's text transformer that are needed to insert prompts."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from syncclip.core.settings import UserError


class TextTower:
    """Components of a text transformer. Not an `nn.Module`, because that would register the parameters twice.

    Attributes:
        module: open_clip's `CLIP` or `TextTransformer`.
        pool: token to pool: the token with the largest id (CLIP's end token), the first token whose id is `end`, or the
            last token of the context (SigLIP, CLIPA).
        context: maximum number of tokens of a text.
        dim: dimension of the features.
        causal: whether each token attends only to itself and to earlier tokens.
    """

    def __init__(self, module: Any, pool: Literal["argmax", "eos", "last"], end: int) -> None:
        self.module, self.pool, self.end = module, pool, end
        self.token_embedding: nn.Embedding = module.token_embedding
        self.blocks: nn.ModuleList = module.transformer.resblocks
        self.width, self.layers = self.token_embedding.embedding_dim, len(self.blocks)
        self.context, self.causal = int(module.context_length), module.attn_mask is not None
        projection = module.text_projection
        if isinstance(projection, nn.Linear):
            self.dim = projection.out_features
        else:
            self.dim = self.width if projection is None else int(projection.shape[1])

    def read(self, ids: Tensor) -> Tensor:
        """Return the positions (C,) of the pooled tokens in padded texts (C, context)."""
        if self.pool == "last":
            return torch.full((len(ids),), ids.shape[1] - 1)
        return ids.argmax(dim=-1) if self.pool == "argmax" else (ids == self.end).int().argmax(dim=-1)

    def positions(self, length: int) -> Tensor:
        """Return the positional embeddings (length, width) of the first tokens."""
        positions: Tensor = self.module.positional_embedding[:length]
        return positions

    def mask(self, rows: slice | Tensor, length: int) -> Tensor | None:
        """Return the attention mask over the first `length` tokens: (Q, length), or (C, 1, length) for C texts."""
        if not self.causal:
            return None
        mask: Tensor = self.module.attn_mask
        if length > len(mask):  # inserted vectors may exceed the context
            mask = mask.new_full((length, length), -torch.inf).triu_(1)
        mask = mask[rows, :length]
        return mask if isinstance(rows, slice) else mask[:, None]

    def project(self, x: Tensor) -> Tensor:
        """Compute features (*, dim) from the last block's output (*, width)."""
        x = self.module.ln_final(x)
        projection = self.module.text_projection
        if isinstance(projection, nn.Linear):
            x = projection(x)
        elif projection is not None:
            x = x @ projection
        return x


def text_tower(model: Any) -> TextTower | None:
    """Return an open_clip model's text tower, or None for an unsupported architecture such as CoCa or RoBERTa."""
    # These modules are slow to import.
    from open_clip.model import CLIP
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer

    module = model if isinstance(model, CLIP) else getattr(model, "text", None)
    if not isinstance(module, CLIP | TextTransformer):
        return None
    prefix = "text_" if isinstance(module, CLIP) else ""
    tower = TextTower(module, getattr(module, f"{prefix}pool_type"), getattr(module, f"{prefix}eos_id"))
    plain = all(isinstance(block, ResidualAttentionBlock) for block in tower.blocks)
    # With a class token after the text, or a padding mask, attention depends on the length of the text.
    by_length = getattr(module, "cls_emb", None) is not None or getattr(module, "use_pad_mask", False)
    return tower if plain and not by_length and tower.pool in ("argmax", "eos", "last") else None


def no_text_prompts(backbone: str) -> UserError:
    """Return the error for a backbone without a supported text tower."""
    return UserError(
        f"backbone.name: the text tower of '{backbone}' does not support prompts, because it is not a plain CLIP "
        "transformer; use a ViT model such as 'ViT-B-16', or a method that adapts only the vision tower"
    )
