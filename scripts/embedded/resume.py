"""Checkpoints of the pretraining scripts and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of a module's floating-point state."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - decay)

    @contextmanager
    def on(self, module: nn.Module) -> Iterator[None]:
        """Load the average into the module for the duration of the block."""
        own: dict[str, Tensor] = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.state)
        training = module.training
        module.eval()
        try:
            yield
        finally:
            module.load_state_dict(own)
            module.train(training)


def save_state(path: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average) -> None:
    """Write the whole state to a temporary file, then rename the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "module": module.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "average": average.state, "updates": average.updates}, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)


def load_state(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, average: Average) -> int:
    """Load the state if it exists, and return the step to resume from."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    average.state, average.updates = state["average"], state["updates"]
    return int(state["step"])
