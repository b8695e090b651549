"""What the workers of one run do together: agree on a start, and average what each found on its share of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from syncclip.core.settings import UserError

T = TypeVar("T")


class SharedError(UserError):
    """A user's mistake that one rank met and every rank knows of."""


def from_first(rank: int, world_size: int, compute: Callable[[], T]) -> T:
    """What rank 0 computes, on every rank; a user's mistake there is raised everywhere, see `agreed`."""
    found: list[T | None] = [None]
    with agreed(world_size):
        if rank == 0:
            found = [compute()]
    if world_size > 1:
        dist.broadcast_object_list(found, src=0)
    return found[0]  # type: ignore[return-value]


def gathered(mine: T, world_size: int) -> list[T]:
    """What each rank has, in their order, on every rank."""
    if world_size == 1:
        return [mine]
    found: list[T | None] = [None] * world_size
    dist.all_gather_object(found, mine)
    return found  # type: ignore[return-value]


@contextlib.contextmanager
def agreed(world_size: int) -> Iterator[None]:
    """A user's mistake that a rank meets in this block is raised on all of them, so that none waits for ever.

    Raises:
        UserError: the mistake itself, where there is one rank.
        SharedError: the first rank's mistake, where there are several.
    """
    mistake: str | None = None
    try:
        yield
    except UserError as error:
        if world_size == 1:
            raise
        mistake = str(error)
    for sentence in gathered(mistake, world_size):
        if sentence is not None:
            raise SharedError(sentence)


def average(
    parameters: Sequence[Parameter], losses: dict[str, Tensor], world_size: int, wish: bool = False
) -> tuple[dict[str, float], bool]:
    """Replace each gradient by its mean over the ranks, in one message for all of it.

    Ranks have equal parts of a batch, so these are means over the global batch. A parameter that has no gradient on
    any rank keeps none: SGD then leaves it alone, its decay included.

    Returns:
        The losses' means, and whether any rank had the wish.
    """
    if world_size == 1:
        return {name: value.item() for name, value in losses.items()}, wish
    present = torch.tensor([float(p.grad is not None) for p in parameters])
    pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    values = torch.stack([value.detach().float() for value in losses.values()])
    values = torch.cat([values, values.new_tensor([float(wish)])])
    flat = torch.cat([piece.flatten() for piece in pieces] + [present.to(values.device), values])
    dist.all_reduce(flat)
    flat /= world_size
    *sums, present, values = torch.split(flat, [p.numel() for p in parameters] + [len(parameters), len(losses) + 1])
    for parameter, total, somewhere in zip(parameters, sums, present.tolist(), strict=True):
        parameter.grad = total.view_as(parameter).to(parameter.dtype) if somewhere else None
    *means, wishes = values.tolist()
    return dict(zip(losses, means, strict=True)), wishes > 0
