"""Trainable modules that adapt the frozen blocks of a tower: low-rank updates, norms, adapters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from syncclip.core.settings import UserError

Matrix = Literal["q", "k", "v", "out", "fc", "proj"]
"""Matrices of a block: query, key, value and output of the attention, and the two layers of the MLP."""

SHORT = 64
"""Maximum number of tokens for which unfused attention is faster on a CPU (91 vs. 141 ms per step for 21 tokens)."""


class BlockPart(nn.Module):
    """Base class for trainable modules that adapt a block; the base class itself leaves the block unchanged.

    A module must process each token independently, because shared tokens are computed separately. In the last block,
    only the pooled tokens pass through `q`, `out`, the MLP and `residual`.
    """

    def linear(self, name: Matrix, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ARG002
        """Apply one of the block's frozen matrices to tokens x (*, T, in), and return (*, T, out)."""
        return F.linear(x, weight, bias)

    def norm(self, name: Literal["ln_1", "ln_2"], frozen: nn.Module, x: Tensor) -> Tensor:  # noqa: ARG002
        """Normalise tokens (*, T, width) before the attention (`ln_1`) or the MLP (`ln_2`)."""
        normed: Tensor = frozen(x)
        return normed

    def residual(self, normed: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return a residual to add to the block's output (*, T, width), or None; `normed` is the input after `ln_1`."""
        return None


Parts = Sequence[BlockPart] | nn.ModuleList
"""One trainable module per block of a tower, or empty."""


def learned(parts: Parts) -> Iterable[Tensor]:
    """Yield the parameters of all parts."""
    return (parameter for part in parts for parameter in part.parameters())


def for_blocks(tower: str, parts: Parts, layers: int) -> list[BlockPart | None]:
    """Return one part per block; if `parts` is empty, return None for each block.

    Raises:
        UserError: the number of parts differs from the number of blocks.
    """
    if len(parts) not in (0, layers):
        raise UserError(
            f"there are parts for {len(parts)} blocks, but the {tower} tower has {layers}; pass one part per block"
        )
    return [*cast(Iterable[BlockPart], parts)] or [None] * layers


def attend_with(
    part: BlockPart,
    block: Any,
    query: Tensor | None,
    tokens: Tensor,
    head: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Equivalent of `blocks.attend` for a block that is adapted by `part`."""
    attention, lead = block.attn, tokens.shape[:-2]
    keys = part.norm("ln_1", block.ln_1, tokens)
    normed, query = (keys, tokens) if query is None else (part.norm("ln_1", block.ln_1, query), query)
    if head is not None:
        keys = torch.cat([part.norm("ln_1", block.ln_1, head).expand(*lead, -1, -1), keys], dim=-2)
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    names: tuple[Matrix, ...] = ("q", "k", "v")
    q, k, v = (
        part.linear(name, x, weight, bias).view(*x.shape[:-1], attention.num_heads, -1).transpose(-3, -2)
        for name, x, weight, bias in zip(names, (normed, keys, keys), weights, biases, strict=True)
    )
    if mask is not None:  # (Q, S + T), or (C, 1, S + T): the same for all heads
        rows = mask if mask.dim() == 2 else mask[:, None].expand(*lead, 1, *mask.shape[1:]).flatten(0, -4)
        mask = rows.to(q.dtype)
    short = q.device.type == "cpu" and k.shape[-2] <= SHORT
    with sdpa_kernel(SDPBackend.MATH) if short else nullcontext():  # fused kernels require four dimensions
        attended = F.scaled_dot_product_attention(q.flatten(0, -4), k.flatten(0, -4), v.flatten(0, -4), mask)
    attended = attended.transpose(1, 2).reshape(*query.shape)
    out, mlp = attention.out_proj, block.mlp
    x = query + block.ls_1(part.linear("out", attended, out.weight, out.bias))
    wide = part.linear("fc", part.norm("ln_2", block.ln_2, x), mlp.c_fc.weight, mlp.c_fc.bias)
    after: Tensor = x + block.ls_2(part.linear("proj", mlp.gelu(wide), mlp.c_proj.weight, mlp.c_proj.bias))
    added = part.residual(normed)
    return after if added is None else after + added
