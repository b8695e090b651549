"""Parallel encoding in a training step: classes are split across ranks, and each rank's images into chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class WorkSplit:
    """One rank's share of a training step. By default, a single rank encodes all images in one chunk.

    Features and gradients do not depend on the split, apart from rounding errors due to the summation order.

    Args:
        rank, ranks: this rank and the number of ranks; several ranks require an initialised torch.distributed.
        pieces: number of chunks into which this rank splits its images. With several chunks, activations are recomputed
            in the backward pass, so memory depends on the chunk size.
    """

    rank: int = 0
    ranks: int = 1
    pieces: int = 1

    def texts(self, encode: Callable[[slice], Tensor], count: int) -> Tensor:
        """Return the features (count, D) of the first classes; each rank encodes ceil(count / ranks) of them."""
        if self.ranks == 1:
            return encode(slice(count))
        size = -(-count // self.ranks)
        # `gather` requires equal sizes: if `ranks` does not divide `count`, the last parts start earlier and overlap.
        starts = [min(rank * size, count - size) for rank in range(self.ranks)]
        local = encode(slice(starts[self.rank], starts[self.rank] + size))
        parts = zip(range(self.ranks), starts, self.gather(local), strict=True)
        return torch.cat([part[rank * size - start :] for rank, start, part in parts])

    def images(self, encode: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        """Return the features (B, D) of this rank's images, encoded in chunks. Each input has B rows or is None."""
        if self.pieces == 1:
            return encode(*inputs)
        none = [None] * self.pieces
        chunks = zip(*(none if rows is None else rows.chunk(self.pieces) for rows in inputs), strict=False)
        return torch.cat([checkpoint(encode, *chunk, use_reentrant=False) for chunk in chunks])

    def gather(self, rows: Tensor) -> Tensor:
        """Gather tensors of equal shape from all ranks into one differentiable tensor (ranks, ...)."""
        if self.ranks == 1:
            return rows[None]
        gathered: Tensor = _Gather.apply(rows, self.rank, self.ranks)  # type: ignore[no-untyped-call]
        return gathered

    def whole(self, rows: Tensor) -> Tensor:
        """Gather rows (B, ...) from all ranks into one tensor (ranks * B, ...), ordered as on a single rank."""
        return self.gather(rows).transpose(0, 1).flatten(0, 1)


class _Gather(torch.autograd.Function):
    """Differentiable all_gather: the gradient of this rank's rows is summed over all ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, ranks: int) -> Tensor:
        ctx.rank = rank
        gathered = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(ranks)]
        dist.all_gather(gathered, rows.contiguous())
        return torch.stack(gathered)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # gloo has no reduce-scatter; the additional cost is negligible.
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.rank], None, None
