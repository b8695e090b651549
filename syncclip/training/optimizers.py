"""Optimisers and learning-rate schedules: the recipe's SGD with a cosine schedule, or method-specific choices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from syncclip.core.settings import UserError
from syncclip.methods.settings import Optimisation
from syncclip.training.settings import TrainingSettings


def optimizer_of(
    learnable: Iterable[Parameter], rate: float, settings: TrainingSettings, own: Optimisation | None
) -> torch.optim.Optimizer:
    """Create the method's `own` optimiser, or SGD with the recipe's momentum and weight decay if `own` is None."""
    if own is None or own.optimizer == "sgd":
        decay = settings.weight_decay if own is None else own.weight_decay
        return torch.optim.SGD(learnable, lr=rate, momentum=settings.momentum, weight_decay=decay)
    adam: type[torch.optim.Adam] = torch.optim.AdamW if own.optimizer == "adamw" else torch.optim.Adam
    return adam(learnable, lr=rate, weight_decay=own.weight_decay, eps=own.eps)


def state_of(optimizer: torch.optim.Optimizer, learnable: Mapping[str, Parameter]) -> dict[str, Tensor]:
    """Return an optimiser's state tensors, keyed by parameter name (SGD momentum) or `name.slot` (Adam).

    A parameter that has never received a gradient has no state.
    """
    state = {}
    for name, parameter in learnable.items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                state[name if slot == "momentum_buffer" else f"{name}.{slot}"] = value
    return state


def restore(optimizer: torch.optim.Optimizer, learnable: Mapping[str, Parameter], state: Mapping[str, Tensor]) -> None:
    """Load the result of `state_of` into an optimiser.

    Raises:
        UserError: the state belongs to a different optimiser or different parameters.
    """
    slots = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}
    for key, value in state.items():
        name, _, slot = (key, "", "momentum_buffer") if key in learnable else key.rpartition(".")
        if name not in learnable or slot not in slots:
            raise UserError(
                "the checkpoint belongs to a different optimiser or method; remove the checkpoint, or train in a "
                "different folder"
            )
        parameter = learnable[name]
        device = "cpu" if slot == "step" else parameter.device  # torch stores step counters on the CPU
        optimizer.state[parameter][slot] = value.to(device, copy=True)


def rate_at(
    base: float, step: int, steps_per_epoch: int, settings: TrainingSettings, own: Optimisation | None
) -> float:
    """Return the learning rate for a step, counted from 0 over all epochs."""
    if own is not None and own.by_step:
        steps = steps_per_epoch * settings.epochs
        switch = own.switch(steps)
        done = step / switch if step < switch else (step - switch) / (steps - switch)
        return own.last_rate + (base - own.last_rate) / 2 * (1 + math.cos(math.pi * done))
    epoch = step // steps_per_epoch
    return learning_rate(base, epoch, settings.epochs, settings.warmup_epochs, settings.warmup_learning_rate)


def learning_rate(
    base: float, epoch: int, epochs: int, warmup_epochs: int = 1, warmup_learning_rate: float = 1e-5
) -> float:
    """Return the learning rate for an epoch, counted from 0: constant during the warm-up, then a cosine decay.

    To match the published results of the CoOp family, the cosine spans `epochs`, not `epochs - warmup_epochs`, so the
    learning rate does not reach zero.
    """
    assert 0 <= epoch < epochs, (epoch, epochs)
    if epoch < warmup_epochs:
        return warmup_learning_rate
    return base / 2 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / epochs))
