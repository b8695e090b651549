"""What the workers of one run do together: agree on a start, and average what each found on its share of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

T = TypeVar("T")


def from_first(rank: int, world_size: int, compute: Callable[[], T]) -> T:
    """What rank 0 computes, on every rank; an exception there is raised everywhere, so that none waits for ever."""
    if world_size == 1:
        return compute()
    found: list[object] = [None, None]
    if rank == 0:
        try:
            found[0] = compute()
        except Exception as error:
            found[1] = error
    dist.broadcast_object_list(found, src=0)
    if isinstance(found[1], Exception):
        raise found[1]
    return found[0]  # type: ignore[return-value]


def average(parameters: Sequence[Parameter], losses: dict[str, Tensor], world_size: int) -> dict[str, float]:
    """Replace each gradient by its mean over the ranks, and return the losses' means; one message for all of it.

    Ranks have equal parts of a batch, so these are means over the global batch. A parameter that has no gradient on
    any rank keeps none: SGD then leaves it alone, its decay included.
    """
    if world_size == 1:
        return {name: value.item() for name, value in losses.items()}
    present = torch.tensor([float(p.grad is not None) for p in parameters])
    pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    values = torch.stack([value.detach().float() for value in losses.values()])
    flat = torch.cat([piece.float().flatten() for piece in pieces] + [present.to(values.device), values])
    dist.all_reduce(flat)
    flat /= world_size
    *sums, present, values = torch.split(flat, [p.numel() for p in parameters] + [len(parameters), len(losses)])
    for parameter, total, somewhere in zip(parameters, sums, present.tolist(), strict=True):
        parameter.grad = total.view_as(parameter).to(parameter.dtype) if somewhere else None
    return dict(zip(losses, values.tolist(), strict=True))
