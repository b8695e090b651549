"""What a step is worth and when a checkpoint falls due: pure functions of integers."""

from __future__ import annotations

import math


def learning_rate(base: float, epoch: int, epochs: int, warmup_epochs: int = 1, warmup_rate: float = 1e-5) -> float:
    """The rate of a whole epoch: constant during warm-up, then a cosine that starts its count anew.

    The cosine's period is `epochs`, not `epochs - warmup_epochs`, so the rate never reaches zero: that is how the
    published numbers of the CoOp family were made. With one epoch only the warm-up rate is ever used.

    Args:
        base: the rate right after the warm-up.
        epoch: counted from 0.
        epochs: of the whole training.
    """
    assert 0 <= epoch < epochs, (epoch, epochs)
    if epoch < warmup_epochs:
        return warmup_rate
    return base / 2 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / epochs))


def position(step: int, steps_per_epoch: int) -> tuple[int, int]:
    """(epoch, step within it) of a global step, both counted from 0."""
    return divmod(step, steps_per_epoch)


def checkpoint_due(done: int, total: int, every: int, waited: bool = False) -> bool:
    """Whether a checkpoint is written once `done` of `total` steps are made; the end needs none, it has its prompts.

    Args:
        waited: whether the last one lies back longer than it may.
    """
    return 0 < done < total and (waited or done % every == 0)


def log_due(done: int, total: int, every: int) -> bool:
    """Whether the losses of step number `done`, counted from 1, become a line of metrics: first, last, `every`-th."""
    return done in (1, total) or done % every == 0
