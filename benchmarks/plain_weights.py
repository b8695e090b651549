"""As `plain.py`, of the methods that learn weights, heads or adapters."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.plain import PLAIN, Plain
from syncclip.methods.probe import Probe


class PlainProbe(Plain):
    method: Probe

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(self.method.vectors[classes], dim=-1)


ALL: dict[str, type[Any]] = {**PLAIN, "probe": PlainProbe}
"""Of every method in `METHODS`."""
