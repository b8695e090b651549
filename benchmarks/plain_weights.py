"""As `plain.py`, methods that learn weights, heads, adapters or tokens of a space of their own; and all plain ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import batch_norm, kl_div, linear, log_softmax, relu

from benchmarks.plain import PLAIN, Plain
from benchmarks.towers import encode_images
from syncclip.methods.base import TrainingBatch
from syncclip.methods.promptkd import PromptKd


class PlainPromptKd(Plain):
    method: PromptKd

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return self.method.text_features(classes)

    def image_features(self, images: Tensor) -> Tensor:
        return self.projected(images, training=False)

    def projected(self, images: Tensor, training: bool) -> Tensor:
        """(B, D_t) with the statistics of these images, or the running ones."""
        ours = self.method
        hidden = ours.narrow(encode_images(self.clip, images, list(ours.vision_prompts)))
        running = ours.running_mean.detach().clone(), ours.running_var.detach().clone()
        hidden = batch_norm(hidden, *running, ours.norm_weight, ours.norm_bias, training)
        return linear(relu(hidden), ours.last.weight, ours.last.bias)

    def loss_with(self, text: Tensor, batch: TrainingBatch) -> Tensor:
        settings, teacher = self.method.settings, batch.teacher
        assert teacher is not None
        heat = settings.temperature
        scores = self.scores(self.projected(batch.images, training=True), text)
        student, target = log_softmax(scores / heat, dim=1), log_softmax(teacher.log() / heat, dim=1)
        divergence = kl_div(student, target, reduction="sum", log_target=True)
        return settings.distillation_weight * heat**2 * divergence / scores.numel()


ALL: dict[str, type[Any]] = {**PLAIN, "promptkd": PlainPromptKd}
"""Of every method in `METHODS`."""
