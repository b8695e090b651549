"""MMA: parallel adapters in the later blocks of both towers, with a shared inner layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from syncclip.clip.parts import BlockPart
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods.adapted import Adapted
from syncclip.methods.settings import MmaSettings


class Adapter(BlockPart):
    """Adapter that adds scale * up(relu(shared(relu(down(x))))) to a block's output.

    Here, x is the block's input after its first norm. As in the published code, the adapter's parameters receive
    gradients as if the scale were 1, whereas earlier layers receive the true gradients.
    """

    shared: nn.Linear

    def __init__(self, width: int, shared: nn.Linear, scale: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, shared.in_features), nn.Linear(shared.out_features, width)
        self.scale = scale
        object.__setattr__(self, "shared", shared)  # bypasses nn.Module: the method registers it once for both towers
        for layer in (self.down, self.up):
            initialise(layer)

    def residual(self, normed: Tensor) -> Tensor:
        inside = relu(self.shared(relu(self.down(_scaled(normed, 1.0, self.scale)))))
        return _scaled(self.up(inside), self.scale, 1.0)


class Mma(Adapted):
    """Multi-modal adapters (MMA, CVPR 2024, section 3.2) in both towers.

    Source: the paper and its published code, which divides adapter gradients by the scale.
    """

    Settings = MmaSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: MmaSettings
    ) -> None:
        super().__init__(clip, classnames, base, settings.template or template, settings)
        towers = clip.text, clip.vision
        fewest = min(tower.layers for tower in towers)
        last = settings.last_block or fewest
        first = settings.first_block or (5 if last >= 5 else 1)
        if not first <= last <= fewest:
            raise UserError(
                f"methods.mma: adapter blocks {first} to {last} are not a valid range for towers with {fewest} blocks; "
                "change first_block or last_block"
            )
        self.shared = nn.ModuleList(nn.Linear(settings.width, settings.width) for _ in range(first, last + 1))
        for layer in self.shared:
            initialise(layer)
        shared = dict(enumerate(cast(Iterable[nn.Linear], self.shared), start=first))
        self.install(*(_adapters(tower.width, tower.layers, shared, settings.scale) for tower in towers))


def _adapters(width: int, layers: int, shared: Mapping[int, nn.Linear], scale: float) -> list[BlockPart]:
    """Return one module per tower block: an adapter or the identity."""
    return [Adapter(width, shared[i], scale) if i in shared else BlockPart() for i in range(1, layers + 1)]


def initialise(layer: Any) -> None:
    """Initialise a linear layer with Kaiming-normal weights (fan-out) and zero bias."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    nn.init.zeros_(layer.bias)


def _scaled(x: Tensor, value: float, gradient: float) -> Tensor:
    scaled: Tensor = _Scaled.apply(x, value, gradient)  # type: ignore[no-untyped-call]
    return scaled


class _Scaled(torch.autograd.Function):
    """Multiplication by different factors in the forward and backward passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: float, gradient: float) -> Tensor:
        ctx.gradient = gradient
        return x * value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.gradient, None, None
