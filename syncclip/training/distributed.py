"""Communication between the workers of a run: shared values, shared errors, and averaged gradients and losses."""

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
    """User error from one rank that is raised on every rank."""


def from_first(rank: int, world_size: int, compute: Callable[[], T]) -> T:
    """Compute a value on rank 0 and broadcast it; a user error is raised on every rank (see `agreed`)."""
    result: list[T | None] = [None]
    with agreed(world_size):
        if rank == 0:
            result = [compute()]
    if world_size > 1:
        dist.broadcast_object_list(result, src=0)
    return result[0]  # type: ignore[return-value]


def gathered(value: T, world_size: int) -> list[T]:
    """Return the values of all ranks, in rank order."""
    if world_size == 1:
        return [value]
    values: list[T | None] = [None] * world_size
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


@contextlib.contextmanager
def agreed(world_size: int) -> Iterator[None]:
    """Avoid a deadlock: if any rank raises a user error in this block, raise a user error on all ranks.

    Raises:
        UserError: with a single rank, the rank's own error.
        SharedError: with several ranks, the error of the first failed rank.
    """
    message: str | None = None
    try:
        yield
    except UserError as error:
        if world_size == 1:
            raise
        message = str(error)
    for error_message in gathered(message, world_size):
        if error_message is not None:
            raise SharedError(error_message)


def average(
    parameters: Sequence[Parameter], losses: dict[str, Tensor], world_size: int, flag: bool = False
) -> tuple[dict[str, float], bool]:
    """Replace each gradient with its mean over the ranks, in one all-reduce.

    A parameter without a gradient on any rank keeps `grad=None`, so the optimiser (and weight decay) skips it.

    Returns:
        The losses averaged over all ranks, and whether `flag` is set on any rank.
    """
    if world_size == 1:
        return {name: value.item() for name, value in losses.items()}, flag
    present = torch.tensor([float(p.grad is not None) for p in parameters])
    pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    values = torch.stack([value.detach().float() for value in losses.values()])
    values = torch.cat([values, values.new_tensor([float(flag)])])
    flat = torch.cat([piece.flatten() for piece in pieces] + [present.to(values.device), values])
    dist.all_reduce(flat)
    flat /= world_size
    *sums, present, values = torch.split(flat, [p.numel() for p in parameters] + [len(parameters), len(losses) + 1])
    for parameter, total, has_gradient in zip(parameters, sums, present.tolist(), strict=True):
        parameter.grad = total.view_as(parameter).to(parameter.dtype) if has_gradient else None
    *means, flags = values.tolist()
    return dict(zip(losses, means, strict=True)), flags > 0
