"""How a training step's encoding is split: classes across ranks, and each rank's images into pieces in turn."""

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
    """One rank's part of the work; by default a single rank, which encodes its images in one piece.

    However the work is split, features and gradients equal those of one rank in one piece, up to the order of sums.

    Args:
        rank, ranks: this rank and their number; with several, torch.distributed must be initialised.
        pieces: number of parts in which this rank's images pass through the tower, one after the other. Activations
            are recomputed for the gradient instead of kept, so memory falls with the size of a piece.
    """

    rank: int = 0
    ranks: int = 1
    pieces: int = 1

    def texts(self, encode: Callable[[slice], Tensor], count: int) -> Tensor:
        """(count, D) features of the first classes; each rank encodes `count / ranks` of them, rounded up.

        Args:
            encode: features of a slice of the classes.
        """
        if self.ranks == 1:
            return encode(slice(count))
        size = -(-count // self.ranks)
        # `gather` needs parts of equal size: where the count is not divisible, the last ones begin earlier and overlap.
        begins = [min(rank * size, count - size) for rank in range(self.ranks)]
        mine = encode(slice(begins[self.rank], begins[self.rank] + size))
        parts = zip(range(self.ranks), begins, self.gather(mine), strict=True)
        return torch.cat([part[rank * size - begin :] for rank, begin, part in parts])

    def images(self, encode: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        """(B, D) features of this rank's images.

        Args:
            encode: features of some images, given the same rows of every input.
            inputs: tensors of B rows each, or None.
        """
        if self.pieces == 1:
            return encode(*inputs)
        none = [None] * self.pieces
        pieces = zip(*(none if rows is None else rows.chunk(self.pieces) for rows in inputs), strict=False)
        return torch.cat([checkpoint(encode, *piece, use_reentrant=False) for piece in pieces])

    def gather(self, rows: Tensor) -> Tensor:
        """(ranks, ...) the equally shaped tensors of all ranks; gradients flow back to the rank that each came from."""
        if self.ranks == 1:
            return rows[None]
        gathered: Tensor = _Gather.apply(rows, self.rank, self.ranks)  # type: ignore[no-untyped-call]
        return gathered

    def whole(self, rows: Tensor) -> Tensor:
        """(ranks * B, ...) the equally shaped rows of all ranks, in the order in which one rank alone has them."""
        return self.gather(rows).transpose(0, 1).flatten(0, 1)


class _Gather(torch.autograd.Function):
    """all_gather whose gradient is the sum, over all ranks, of the gradients for this rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, ranks: int) -> Tensor:
        ctx.rank = rank
        found = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(ranks)]
        dist.all_gather(found, rows.contiguous())
        return torch.stack(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # A reduce-scatter would send less, but gloo has none; next to the towers' work the cost is negligible.
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.rank], None, None
