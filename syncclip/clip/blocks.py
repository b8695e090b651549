"""What both towers are run with: one block of open_clip, vectors placed among its tokens, and the number format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from syncclip.clip.backbone import Precision
from syncclip.clip.parts import SHORT, BlockPart, attend_with
from syncclip.core.settings import UserError

Prompts = Sequence[Tensor | None]
"""Of the blocks of a tower, from the first on; see `PromptedClip.encode_text`."""


def attend(
    block: Any,
    query: Tensor | None,
    tokens: Tensor,
    head: Tensor | None = None,
    mask: Tensor | None = None,
    part: BlockPart | None = None,
) -> Tensor:
    """The output of one block for `query`, some of `tokens`, which attend to `head` and `tokens`.

    Args:
        block: open_clip's `ResidualAttentionBlock`.
        query, tokens: (*, Q, width) and (*, T, width); without a query all tokens ask.
        head: (*, S, width), broadcast over the leading dimensions.
        mask: (Q, S + T), or (C, 1, S + T) with one query a text; added to the attention scores.
        part: what is learned inside the block.

    Returns:
        (*, Q, width).
    """
    if part is not None:
        return attend_with(part, block, query, tokens, head, mask)
    lead = tokens.shape[:-2]
    keys = block.ln_1(tokens)
    normed, query = (keys, tokens) if query is None else (block.ln_1(query), query)
    if head is not None:
        keys = torch.cat([block.ln_1(head).expand(*lead, -1, -1), keys], dim=-2)
    flat = keys.flatten(0, -3)
    asked = flat if normed is keys else normed.flatten(0, -3)  # one tensor for all three is projected in one go
    if mask is not None and mask.dim() == 3:
        heads = block.attn.num_heads
        mask = mask[:, None].expand(*lead, heads, *mask.shape[1:]).reshape(-1, *mask.shape[1:])
    short = flat.device.type == "cpu" and flat.shape[-2] <= SHORT
    with sdpa_kernel(SDPBackend.MATH) if short else nullcontext():
        x = query + block.ls_1(block.attention(asked, flat, flat, mask)).view_as(query)
    after: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return after


def place(x: Tensor, vectors: Tensor, slots: Tensor) -> Tensor:
    """x (*, C, L, width) with vectors (…, m, width), broadcast over the leading dimensions, at the first m of the slots
    (C, n)."""
    shape = *x.shape[:-2], *vectors.shape[-2:]
    return x.scatter(-2, slots[:, : shape[-2], None].expand(shape), vectors.to(x.dtype).expand(shape))


def of_each_class(vectors: Tensor | None) -> bool:
    """Whether a block's vectors differ from class to class."""
    return vectors is not None and vectors.dim() > 2 and vectors.shape[-3] > 1


def spread(prompts: Prompts, classes: int) -> tuple[torch.Size, int | None]:
    """The leading dimensions of texts with these prompts, and the block, counted from 0, from which on their first
    tokens differ from class to class; None if they never do."""
    leads = (vectors.shape[:-2] for vectors in prompts if vectors is not None)
    lead: torch.Size = torch.broadcast_shapes((classes,), *leads)  # type: ignore[no-untyped-call]
    return lead, next((i for i, vectors in enumerate(prompts) if of_each_class(vectors)), None)


def check_prompts(tower: str, prompts: Prompts, layers: int, tokens: int) -> None:
    """Refuse more prompts than a tower has blocks; each has a vector for every place.

    Only where vectors that all share stand beside a class's own, as TCP's do, one of the two may be fewer, which leave
    the last places to what is there.

    Args:
        tokens: places.

    Raises:
        UserError: there are more.
    """
    if len(prompts) > layers:
        raise UserError(f"{len(prompts)} {tower} blocks are to have prompts, but there are {layers}; lower the depth")
    shapes = [tuple(vectors.shape) for vectors in prompts if vectors is not None]
    mixed = len({len(shape) for shape in shapes}) > 1
    counts = {shape[-2] for shape in shapes}
    assert counts <= {tokens} or (mixed and max(counts) == tokens), (shapes, tokens)


def autocast(precision: Precision, device: torch.device, learned: Iterable[Tensor | None]) -> torch.autocast:
    """The autocast context in which a tower runs.

    bf16 has the range of float32, so nothing overflows or underflows. fp16 does not: it is for GPUs on which bf16 is
    slow, and only without gradients, as many of a prompt's gradients are so small that they would become zero.

    Args:
        learned: prompts and parameters of parts; without any, no gradient passes through the tower.

    Raises:
        UserError: fp16 on another device than a GPU, or for learning.
    """
    if precision == "fp16":
        if device.type != "cuda":
            raise UserError(f"backbone.precision: fp16 needs a GPU, and this is a {device.type}; use bf16 or fp32")
        if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in learned):
            raise UserError(
                "backbone.precision: in fp16 the small gradients of what is learned vanish inside the towers; train in "
                "bf16 or fp32, and keep fp16 for evaluation"
            )
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def float32(features: Tensor, precision: Precision) -> Tensor:
    """Features (*, D) in float32.

    Raises:
        UserError: fp16 has overflowed, as it may with weights that were trained in bf16.
    """
    if precision == "fp16" and not features.isfinite().all():
        raise UserError("backbone.precision: these weights give numbers too large for fp16; use bf16 or fp32")
    return features.float()
