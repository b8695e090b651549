"""CLIP-LoRA: a method that learns inside the towers' blocks, in one file outside the package.

syncclip synth examples/cliplora.yaml synthesis.images_per_class=4
syncclip train examples/cliplora.yaml
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize

from syncclip.clip.parts import BlockPart, Matrix
from syncclip.core.text import fill, spoken
from syncclip.methods import Method, MethodSettings


class LowRank(BlockPart):
    """W x + alpha / sqrt(r) B A dropout(x) for query, key and value of a block."""

    def __init__(self, width: int, rank: int, alpha: float, chance: float) -> None:
        super().__init__()
        self.scale, self.chance = alpha / rank**0.5, chance
        self.a = nn.ParameterDict({name: nn.Parameter(torch.empty(rank, width)) for name in "qkv"})
        self.b = nn.ParameterDict({name: nn.Parameter(torch.zeros(width, rank)) for name in "qkv"})
        for matrix in self.a.values():
            nn.init.kaiming_uniform_(matrix, a=5**0.5)

    def linear(self, name: Matrix, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        frozen = super().linear(name, x, weight, bias)
        if name not in self.a:
            return frozen
        update = dropout(x, self.chance, self.training) @ self.a[name].T @ self.b[name].T
        return torch.add(frozen, update, alpha=self.scale)


class ClipLora(Method):
    """Low-rank updates of the attention in both towers (arXiv 2405.18541)."""

    class Settings(MethodSettings):
        rank: int = Field(2, ge=1)
        alpha: float = Field(1.0, gt=0)
        dropout: float = Field(0.25, ge=0, lt=1)

    def __init__(self, clip, classnames, base, template, settings):  # type: ignore[no-untyped-def]
        super().__init__(clip, classnames, base, template, settings)
        self.texts = clip.texts(fill(template, [*map(spoken, classnames)]))
        self.text_parts, self.vision_parts = (
            nn.ModuleList(
                LowRank(tower.width, settings.rank, settings.alpha, settings.dropout) for _ in range(tower.layers)
            )
            for tower in (clip.text, clip.vision)
        )

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.clip.encode_text(self.texts[classes], parts=self.text_parts), dim=-1)

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.clip.encode_images(images, parts=self.vision_parts)
