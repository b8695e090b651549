"""As `plain.py`, of the methods that learn weights, heads, adapters or tokens of a space of their own."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from benchmarks.plain import PLAIN, Plain
from benchmarks.towers import Texts, encode_images, encode_images_with, encode_text_with
from syncclip.methods.base import TrainingBatch
from syncclip.methods.mmrl import Mmrl
from syncclip.methods.weight_settings import MmrlSettings


class PlainMmrl(Plain):
    """The image's two features in one tensor (B, 2, D), as the published code's tower returns them."""

    method: Mmrl

    def __init__(self, method: Mmrl) -> None:
        super().__init__(method)
        self.texts = Texts(method.clip, method.texts)

    def tokens(self, maps: nn.ModuleList) -> dict[int, Tensor]:
        """(K, width) by block, counted from 0."""
        pairs = zip(self.method.layers, maps, strict=True)
        return {layer - 1: to_width(self.method.shared_tokens) for layer, to_width in pairs}

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return normalize(encode_text_with(self.clip, self.texts, self.tokens(self.method.to_text), classes), dim=-1)

    def both_scores(self, images: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, C) of the class token and of the learned tokens, and the class token's features (B, D)."""
        own, outputs = encode_images_with(self.clip, images, self.tokens(self.method.to_vision))
        return self.scores(own, text), self.scores(outputs @ self.method.projection, text), own

    def logits(self, images: Tensor) -> Tensor:
        base, share = self.method.base, cast(MmrlSettings, self.method.settings).class_weight
        own, others, _ = self.both_scores(images, self.text_features())
        return torch.where(
            torch.arange(own.shape[1], device=own.device) < base, share * own + (1 - share) * others, own
        )

    def loss_with(self, text: Tensor, batch: TrainingBatch) -> Tensor:
        settings = cast(MmrlSettings, self.method.settings)
        with torch.no_grad():
            frozen_image = encode_images(self.clip, batch.images)
        own, others, features = self.both_scores(batch.images, text)
        distance = 2 - cosine_similarity(features, frozen_image).mean()
        distance = distance - cosine_similarity(text, self.method.frozen_texts()[: len(text)]).mean()
        return (
            settings.class_weight * cross_entropy(own, batch.labels)
            + (1 - settings.class_weight) * cross_entropy(others, batch.labels)
            + settings.regularisation_weight * distance
        )


ALL: dict[str, type[Any]] = {**PLAIN, "mmrl": PlainMmrl}
"""Of every method in `METHODS`."""
