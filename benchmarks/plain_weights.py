"""As `plain.py`, of the methods that learn weights, heads or adapters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from benchmarks.plain import PLAIN, Plain
from syncclip.methods.probe import Probe
from syncclip.methods.tip import Tip


class PlainProbe(Plain):
    method: Probe

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.method.vectors[classes], dim=-1)


class PlainTip(Plain):
    method: Tip

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return self.method.text_features()[classes]

    def scores(self, images: Tensor, text: Tensor) -> Tensor:
        """The cache as one matrix of keys and one of values, which are one-hot labels and, of empty slots, zero."""
        classes, slots, _ = self.method.keys.shape
        keys = self.method.keys.flatten(0, 1)
        values = one_hot(torch.arange(classes, device=keys.device).repeat_interleave(slots), classes)
        values = values * keys.any(dim=1, keepdim=True)
        affinity = normalize(images, dim=-1) @ keys.T
        cached = torch.exp(-(self.method.beta - self.method.beta * affinity)) @ values.to(affinity)
        return super().scores(images, text) + self.method.alpha * cached[:, : len(text)]


ALL: dict[str, type[Any]] = {**PLAIN, "probe": PlainProbe, "tip": PlainTip}
"""Of every method in `METHODS`."""
