"""How the towers' work is divided: classes among the ranks of a training, and a rank's images in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Shares:
    """One rank's part of the work; alone and in one piece where nothing else is said.

    However the work is divided, features and gradients are those of one rank in one piece, up to the order of sums.

    Args:
        rank, ranks: this one among all; torch.distributed must be initialised if there are several.
        pieces: into so many parts this rank's images are divided, which pass the tower one after the other. Once more
            for the gradient, instead of all that lies in between being kept: memory falls with the size of a piece.
    """

    rank: int = 0
    ranks: int = 1
    pieces: int = 1

    def texts(self, encode: Callable[[slice], Tensor], count: int) -> Tensor:
        """(count, D) features of the first classes, of which each rank encodes `count / ranks`, rounded up.

        Args:
            encode: gives features of some classes.
        """
        if self.ranks == 1:
            return encode(slice(count))
        size = -(-count // self.ranks)
        # All shares are of one size, as `gather` needs it: where they don't add up the last ones begin earlier.
        begins = [min(rank * size, count - size) for rank in range(self.ranks)]
        mine = encode(slice(begins[self.rank], begins[self.rank] + size))
        parts = zip(range(self.ranks), begins, self.gather(mine), strict=True)
        return torch.cat([part[rank * size - begin :] for rank, begin, part in parts])

    def images(self, encode: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
        """(B, D) features of this rank's images.

        Args:
            encode: gives features of some images, from the same inputs of fewer rows.
            inputs: tensors of B rows each, or None.
        """
        if self.pieces == 1:
            return encode(*inputs)
        none = [None] * self.pieces
        pieces = zip(*(none if rows is None else rows.chunk(self.pieces) for rows in inputs), strict=False)
        return torch.cat([checkpoint(encode, *piece, use_reentrant=False) for piece in pieces])

    def gather(self, rows: Tensor) -> Tensor:
        """(ranks, ...) the tensors of all ranks, of one shape; each rank's gets the gradients of all ranks."""
        if self.ranks == 1:
            return rows[None]
        gathered: Tensor = _Gather.apply(rows, self.rank, self.ranks)  # type: ignore[no-untyped-call]
        return gathered


class _Gather(torch.autograd.Function):
    """all_gather whose gradient is the sum of what every rank found for this rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, ranks: int) -> Tensor:
        ctx.rank = rank
        found = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(ranks)]
        dist.all_gather(found, rows.contiguous())
        return torch.stack(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # A reduce-scatter would send less, but gloo has none; beside the towers' work it's nothing.
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.rank], None, None
