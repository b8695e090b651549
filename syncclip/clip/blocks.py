"""Operations shared by both towers: transformer blocks, insertion of prompts, and precision."""

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
"""Prompts for a tower's first blocks (see `PromptedClip.encode_text`)."""


def attend(
    block: Any,
    query: Tensor | None,
    tokens: Tensor,
    head: Tensor | None = None,
    mask: Tensor | None = None,
    part: BlockPart | None = None,
) -> Tensor:
    """Compute a block's output for `query`, which attends to `head` and `tokens`.

    Args:
        block: open_clip's `ResidualAttentionBlock`.
        query, tokens: (*, Q, width) and (*, T, width); without a query, all tokens are queries.
        head: (*, S, width), broadcast over the leading dimensions.
        mask: (Q, S + T), or (C, 1, S + T) with one query per text; added to the attention scores.
        part: trainable module that adapts the block.

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
    queries = flat if normed is keys else normed.flatten(0, -3)  # the same tensor is projected once for q, k and v
    if mask is not None and mask.dim() == 3:
        heads = block.attn.num_heads
        mask = mask[:, None].expand(*lead, heads, *mask.shape[1:]).reshape(-1, *mask.shape[1:])
    short = flat.device.type == "cpu" and flat.shape[-2] <= SHORT
    with sdpa_kernel(SDPBackend.MATH) if short else nullcontext():
        x = query + block.ls_1(block.attention(queries, flat, flat, mask)).view_as(query)
    after: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return after


def place(x: Tensor, vectors: Tensor, slots: Tensor) -> Tensor:
    """Write vectors (…, m, width), with broadcasting, to the first m of the n slots (C, n) of x (*, C, L, width)."""
    shape = *x.shape[:-2], *vectors.shape[-2:]
    return x.scatter(-2, slots[:, : shape[-2], None].expand(shape), vectors.to(x.dtype).expand(shape))


def of_each_class(vectors: Tensor | None) -> bool:
    """Return whether a block's vectors are class-specific."""
    return vectors is not None and vectors.dim() > 2 and vectors.shape[-3] > 1


def spread(prompts: Prompts, classes: int) -> tuple[torch.Size, int | None]:
    """Return the leading dimensions of prompted texts, and the index of the first block with class-specific prompts."""
    leads = (vectors.shape[:-2] for vectors in prompts if vectors is not None)
    lead: torch.Size = torch.broadcast_shapes((classes,), *leads)  # type: ignore[no-untyped-call]
    return lead, next((i for i, vectors in enumerate(prompts) if of_each_class(vectors)), None)


def check_prompts(tower: str, prompts: Prompts, layers: int, tokens: int) -> None:
    """Raise a UserError if there are prompts for more blocks than the tower has.

    Each prompt has one vector per slot (`tokens`). If shared and class-specific prompts are mixed, as in TCP, one of
    the two kinds may have fewer vectors.
    """
    if len(prompts) > layers:
        raise UserError(
            f"there are prompts for {len(prompts)} blocks, but the {tower} tower has {layers} blocks; reduce the depth"
        )
    shapes = [tuple(vectors.shape) for vectors in prompts if vectors is not None]
    mixed = len({len(shape) for shape in shapes}) > 1
    counts = {shape[-2] for shape in shapes}
    assert counts <= {tokens} or (mixed and max(counts) == tokens), (shapes, tokens)


def autocast(precision: Precision, device: torch.device, learned: Iterable[Tensor | None]) -> torch.autocast:
    """Return the autocast context of a tower.

    fp16 is for evaluation on GPUs without fast bf16; in training, many prompt gradients would underflow to zero.

    Args:
        learned: prompts, and the parameters of trainable modules.

    Raises:
        UserError: the precision is fp16, but the device is not a GPU, or learned tensors require gradients.
    """
    if precision == "fp16":
        if device.type != "cuda":
            raise UserError(f"backbone.precision: fp16 requires a GPU, but the device is {device}; use bf16 or fp32")
        if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in learned):
            raise UserError(
                "backbone.precision: gradients underflow in fp16; train in bf16 or fp32, and use fp16 only for "
                "evaluation"
            )
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def float32(features: Tensor, precision: Precision) -> Tensor:
    """Return features (*, D) in float32.

    Raises:
        UserError: the features overflowed in fp16, which can happen with weights trained in bf16.
    """
    if precision == "fp16" and not features.isfinite().all():
        raise UserError("backbone.precision: these weights overflow in fp16; use bf16 or fp32")
    return features.float()
