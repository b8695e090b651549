"""2SFS: train the layer norms of the towers first, then a vector for each training class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm, normalize

from syncclip.clip.parts import BlockPart
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods.adapted import Adapted
from syncclip.methods.base import TrainingBatch
from syncclip.methods.settings import TwoStageSettings

Norm = Literal["ln_1", "ln_2"]


class Norms(BlockPart):
    """Gains and biases of a block's two layer norms, initialised with the frozen values."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        norms = {name: getattr(block, name) for name in ("ln_1", "ln_2")}
        self.weight = nn.ParameterDict({name: _start(norm.weight) for name, norm in norms.items()})
        self.bias = nn.ParameterDict({name: _start(norm.bias) for name, norm in norms.items()})

    def norm(self, name: Norm, frozen: Any, x: Tensor) -> Tensor:
        return layer_norm(x, frozen.normalized_shape, self.weight[name], self.bias[name], frozen.eps).to(x.dtype)


class TwoStage(Adapted):
    """Rethinking few-shot adaptation in two stages (2SFS, arXiv 2503.11609).

    The first stage trains the layer norms of both towers with cross entropy over text features. The second stage
    freezes the towers and trains a vector for each candidate class, initialised with its unit-length text feature.
    Training classes are scored by their vectors, and other classes by their text features.

    Source: the paper and its published code. Layer norms outside the blocks stay frozen.

    Attributes:
        classifier: (C, D) class vectors; zero for classes other than the training classes.
    """

    Settings = TwoStageSettings
    settings: TwoStageSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: TwoStageSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        text: list[BlockPart] = []
        vision: list[BlockPart] = []
        if settings.towers != "vision":
            text = _norms("first_text_block", settings.first_text_block, clip.text.blocks)
        if settings.towers != "text":
            vision = _norms("first_visual_block", settings.first_visual_block, clip.vision.inside())
        self.install(text, vision)
        self.classifier = nn.Parameter(torch.zeros(len(classnames), clip.text.dim))
        self.second = self.switches = False

    def step_begins(self, step: int, steps: int) -> None:
        switch = self.settings.optimisation.switch(steps)
        self.second, self.switches = step >= switch, step == switch

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        text = super().text_features(classes)
        if self.training and not self.second:
            return text
        vectors = self.classifier[classes]
        return torch.where((vectors != 0).any(dim=-1, keepdim=True), normalize(vectors, dim=-1), text)

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        count = self.candidates(batch)
        if not self.second:
            return super().terms(batch)
        if self.switches:
            self._begin(count)
        with torch.no_grad():
            features = self.loss_features(batch.images)
        text = normalize(self.classifier[:count], dim=-1)
        return {"classification": cross_entropy(self.scores(features, text), batch.labels)}

    def _begin(self, count: int) -> None:
        with torch.no_grad():
            self.classifier[:count] = super().text_features(slice(count))


def _norms(key: str, first: int, blocks: Iterable[Any]) -> list[BlockPart]:
    """Return one module per block, with trainable layer norms from block `first` (1-based) onwards."""
    layers = len(blocks := [*blocks])
    if first > layers:
        raise UserError(f"methods.twostage.{key} is {first}, but the tower has {layers} blocks; use at most {layers}")
    return [Norms(block) if number >= first else BlockPart() for number, block in enumerate(blocks, start=1)]


def _start(frozen: Tensor) -> nn.Parameter:
    """Return a trainable copy of a frozen tensor, with torch's default device and dtype."""
    return nn.Parameter(torch.empty(frozen.shape).copy_(frozen.detach()))
