"""What turns gradients into steps, at which rate: the recipe's SGD, or what a method asks for."""

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
    learnable: Iterable[Parameter], rate: float, settings: TrainingSettings, asked: Optimisation | None
) -> torch.optim.Optimizer:
    """The optimiser of a training; without `asked`, SGD with the recipe's momentum and weight decay."""
    if asked is None or asked.optimizer == "sgd":
        decay = settings.weight_decay if asked is None else asked.weight_decay
        return torch.optim.SGD(learnable, lr=rate, momentum=settings.momentum, weight_decay=decay)
    kind: type[torch.optim.Adam] = torch.optim.AdamW if asked.optimizer == "adamw" else torch.optim.Adam
    return kind(learnable, lr=rate, weight_decay=asked.weight_decay, eps=asked.eps)


def state_of(optimizer: torch.optim.Optimizer, learnable: Mapping[str, Parameter]) -> dict[str, Tensor]:
    """All that an optimiser carries from step to step: SGD's momentum by the parameter's name, else `name.slot`.

    Nothing of a parameter that never had a gradient.
    """
    found = {}
    for name, parameter in learnable.items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                found[name if slot == "momentum_buffer" else f"{name}.{slot}"] = value
    return found


def restore(optimizer: torch.optim.Optimizer, learnable: Mapping[str, Parameter], state: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` told.

    Raises:
        UserError: it is another optimiser's, or of other parameters.
    """
    slots = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}
    for key, value in state.items():
        name, _, slot = (key, "", "momentum_buffer") if key in learnable else key.rpartition(".")
        if name not in learnable or slot not in slots:
            raise UserError(
                "the checkpoint holds tensors of another optimiser or method; remove it, or train in another folder"
            )
        parameter = learnable[name]
        device = "cpu" if slot == "step" else parameter.device  # torch counts steps there
        optimizer.state[parameter][slot] = value.to(device, copy=True)


def rate_at(
    base: float, step: int, steps_per_epoch: int, settings: TrainingSettings, asked: Optimisation | None
) -> float:
    """The learning rate of a step, counted from 0 over all epochs."""
    if asked is not None and asked.by_step:
        steps = steps_per_epoch * settings.epochs
        switch = asked.switch(steps)
        done = step / switch if step < switch else (step - switch) / (steps - switch)
        return asked.last_rate + (base - asked.last_rate) / 2 * (1 + math.cos(math.pi * done))
    epoch = step // steps_per_epoch
    return learning_rate(base, epoch, settings.epochs, settings.warmup_epochs, settings.warmup_learning_rate)


def learning_rate(
    base: float, epoch: int, epochs: int, warmup_epochs: int = 1, warmup_learning_rate: float = 1e-5
) -> float:
    """The rate of a whole epoch: constant during warm-up, then a cosine that counts its epochs from there.

    The cosine's period is `epochs`, not `epochs - warmup_epochs`, so the rate never reaches zero: that is how the
    published numbers of the CoOp family were made. With one epoch only the warm-up rate is ever used.

    Args:
        base: the rate right after the warm-up.
        epoch: counted from 0.
        epochs: of the whole training.
    """
    assert 0 <= epoch < epochs, (epoch, epochs)
    if epoch < warmup_epochs:
        return warmup_learning_rate
    return base / 2 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / epochs))
