"""What happens inside open_clip's towers: which of them prompts can enter, and one block at a time."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT = 64
"""Tokens up to which plain attention is faster than the fused one on a CPU: with 21, a bf16 training step takes 91 ms
and not 141."""


def promptable_towers(model: Any) -> tuple[Any, Any]:
    """The (text, vision) towers whose mechanics are known here; None for one that works otherwise."""
    # Imported late: these take seconds, and whoever only reads settings need not wait for them.
    from open_clip.model import CLIP
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer, VisionTransformer

    def plain(tower: Any) -> bool:
        return all(isinstance(block, ResidualAttentionBlock) for block in tower.transformer.resblocks)

    text, vision = model if isinstance(model, CLIP) else getattr(model, "text", None), model.visual
    if not (isinstance(text, CLIP | TextTransformer) and plain(text) and _reads_end(text)):
        text = None
    if not (isinstance(vision, VisionTransformer) and plain(vision) and _reads_tokens(vision)):
        vision = None
    return text, vision


def _reads_end(text: Any) -> bool:
    """Whether the output is read at the end token, behind a causal mask."""
    own_token = getattr(text, "cls_emb", None) is not None
    return text.attn_mask is not None and output(text)[0] in ("argmax", "eos") and not own_token


def output(text: Any) -> tuple[str, int]:
    """Where a text tower's output is read, and the id of the end token where it is read there by id."""
    prefix = "text_" if hasattr(text, "text_pool_type") else ""
    return getattr(text, f"{prefix}pool_type"), getattr(text, f"{prefix}eos_id")


def _reads_tokens(vision: Any) -> bool:
    """Whether the output is the class token or the patches' mean."""
    return vision.attn_pool is None and vision.pool_type in ("tok", "avg")


def attend(block: Any, query: Tensor, tokens: Tensor, head: Tensor | None, mask: Tensor | None) -> Tensor:
    """One block for `query`, some or all of `tokens`, which look at `head` and `tokens`.

    Args:
        query, tokens: (*, Q, width) and (*, T, width).
        head: (*, S, width), broadcast over the leading dimensions.
        mask: (Q, S + T), or (C, 1, S + T) with one query a text; added to the attention's scores.

    Returns:
        (*, Q, width).
    """
    lead = query.shape[:-2]
    keys = block.ln_1(tokens)
    normed = keys if query is tokens else block.ln_1(query)
    if head is not None:
        keys = torch.cat([block.ln_1(head).expand(*lead, -1, -1), keys], dim=-2)
    flat = keys.flatten(0, -3)
    asked = flat if normed is keys else normed.flatten(0, -3)  # the same tensor is projected in one go
    if mask is not None and mask.dim() == 3:
        heads = block.attn.num_heads
        mask = mask[:, None].expand(*lead, heads, *mask.shape[1:]).reshape(-1, *mask.shape[1:])
    short = flat.device.type == "cpu" and flat.shape[-2] <= SHORT
    with sdpa_kernel(SDPBackend.MATH) if short else nullcontext():
        x = query + block.ls_1(block.attention(asked, flat, flat, mask)).view_as(query)
    after: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return after


def place(x: Tensor, vectors: Tensor, slots: Tensor) -> Tensor:
    """x (*, C, L, width) with vectors (…, n, width), broadcast over the leading dimensions, at the slots (C, n)."""
    shape = *x.shape[:-2], *vectors.shape[-2:]
    return x.scatter(-2, slots[..., None].expand(shape), vectors.to(x.dtype).expand(shape))


def causal_rows(tower: Any, rows: slice | Tensor, length: int) -> Tensor:
    """Rows of the causal mask, their first `length` columns: (Q, length), or (C, 1, length) for one row a text."""
    mask: Tensor = tower.attn_mask[rows, :length]
    return mask if isinstance(rows, slice) else mask[:, None]
