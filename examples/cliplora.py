"""CLIP-LoRA (arXiv 2405.18541), a custom method: run `syncclip synth` and `train` with `examples/cliplora.yaml`."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize

from syncclip.clip.parts import BlockPart, Matrix
from syncclip.clip.prompt_text import fill
from syncclip.core.text import readable_name
from syncclip.methods import Method, MethodSettings, Optimisation


class LowRank(BlockPart):
    """W x + alpha / sqrt(r) B A dropout(x), for query, key and value of a block."""

    def __init__(self, width: int, settings: ClipLora.Settings) -> None:
        super().__init__()
        self.scale, self.chance = settings.alpha / settings.rank**0.5, settings.dropout
        self.a = nn.ParameterDict({name: nn.Parameter(torch.empty(settings.rank, width)) for name in "qkv"})
        self.b = nn.ParameterDict({name: nn.Parameter(torch.zeros(width, settings.rank)) for name in "qkv"})
        for matrix in self.a.values():
            nn.init.kaiming_uniform_(matrix, a=5**0.5)

    def linear(self, name: Matrix, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        frozen = super().linear(name, x, weight, bias)
        if name not in self.a:
            return frozen
        update = dropout(x, self.chance, self.training) @ self.a[name].T @ self.b[name].T
        return torch.add(frozen, update, alpha=self.scale)


class ClipLora(Method):
    """Low-rank updates (LoRA) of the attention matrices in both towers (arXiv 2405.18541)."""

    class Settings(MethodSettings):
        learning_rate: float = Field(2e-4, gt=0)
        rank: int = Field(2, ge=1)
        alpha: float = Field(1.0, gt=0)
        dropout: float = Field(0.25, ge=0, lt=1)

        @property
        def optimisation(self) -> Optimisation:
            return Optimisation("adamw", weight_decay=0.01, by_step=True, last_rate=1e-6)

    def __init__(self, clip, classnames, base, template, settings):  # type: ignore[no-untyped-def]
        super().__init__(clip, classnames, base, template, settings)
        self.texts = clip.texts(fill(template, [*map(readable_name, classnames)]))
        self.text_parts, self.vision_parts = (
            nn.ModuleList(LowRank(tower.width, settings) for _ in range(tower.layers))
            for tower in (clip.text, clip.vision)
        )

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.clip.encode_text(self.texts[classes], parts=self.text_parts), dim=-1)

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.clip.encode_images(images, parts=self.vision_parts)
