"""PromptKD: visual prompts and a projector, distilled from a larger prompted CLIP model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, relu

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.prompts import checked_depth, deep_prompts
from syncclip.methods.settings import PromptKdSettings

MOMENTUM, EPS = 0.1, 1e-5
"""Batch norm momentum and eps, set to PyTorch's defaults as in the published code."""


class PromptKd(Method):
    """Unsupervised prompt distillation (arXiv 2403.02781).

    The student has visual prompts, as in VPT, and a projector to the teacher's dimension: two linear layers, the first
    followed by batch norm and ReLU. The student has no text tower; it uses the teacher's class vectors, which are saved
    with the results. Given the teacher's soft labels p and the student's probabilities q over all C classes, the loss
    is w T^2 KL(p || q) / C, averaged over images, with weight w and temperature T. Labels are not used.

    The paper trains on all real images without labels, including images of novel classes. Here, the loss is computed on
    synthetic images with soft labels, and real images are ignored.

    In the loss, batch norm uses the statistics of the current step's images across all ranks, whereas `image_features`
    uses running statistics. Running statistics and class vectors are non-trainable parameters that are saved in
    checkpoints and results.

    Source: the paper and its published code.
    """

    Settings = PromptKdSettings
    settings: PromptKdSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: PromptKdSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        depth = checked_depth("visual_depth", settings.visual_depth, clip.vision.layers)
        self.vision_prompts = deep_prompts(depth, settings.visual_tokens, clip.vision.width)
        dim = settings.teacher_dim or clip.text.dim
        self.narrow, self.last = nn.Linear(clip.text.dim, dim), nn.Linear(dim, dim)
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.running_mean, self.running_var = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.ones(dim))
        self.class_vectors = nn.Parameter(torch.zeros(len(classnames), dim))

    @torch.no_grad()
    def meet_teacher(self, class_vectors: Tensor) -> None:
        self.class_vectors.copy_(class_vectors)

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        """Return the teacher's class vectors (C, D_t), or zeros before `meet_teacher` is called."""
        return self.class_vectors[classes].detach()

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return the projected raw features (B, D_t), normalised with the running statistics."""
        hidden = self.narrow(self.raw_features(images))
        return self.projected(hidden, self.running_mean.detach(), self.running_var.detach())

    def raw_features(self, images: Tensor) -> Tensor:
        """Return the prompted vision tower's raw features (B, D)."""
        return self.clip.encode_images(images, list(self.vision_prompts))

    def projected(self, hidden: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Return the projector's output (B, D_t), given its first layer's output and the statistics (D_t,)."""
        normal = (hidden - mean) * (variance + EPS).rsqrt() * self.norm_weight + self.norm_bias
        features: Tensor = self.last(relu(normal))
        return features

    def training_features(self, images: Tensor) -> Tensor:
        """Update the running statistics and return projected features (B, D_t), normalised with this step's statistics.

        Raises:
            UserError: the step has fewer than two images.
        """
        hidden = self.narrow(self.work.images(self.raw_features, images))
        gathered = self.work.gather(hidden).flatten(0, 1)
        if (count := len(gathered)) < 2:
            raise UserError(
                f"promptkd: batch norm requires at least two synthetic images per step, but this step has {count}; "
                "increase training.batch_size"
            )
        variance, mean = torch.var_mean(gathered, dim=0, correction=0)
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_var.lerp_(variance * count / (count - 1), MOMENTUM)
        return self.projected(hidden, mean, variance)

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Return a single, already weighted loss term, since `loss` ignores the weight of a single term."""
        if batch.teacher is None:
            raise UserError("promptkd requires a teacher; set training.teacher to the folder with its soft labels")
        real, settings = batch.sizes[0], self.settings
        scores = self.scores(self.training_features(batch.images[real:]), self.text_features())
        divergence = distillation(batch.teacher[real:], scores, settings.temperature)
        return {"distillation": settings.distillation_weight * divergence.mean() / scores.shape[1]}


def distillation(teacher: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student) for each image (B,), summed over the classes.

    At temperature T, the student's probabilities are softmax(scores / T) and the teacher's probabilities are
    softmax(log p / T).

    Args:
        teacher: (B, C) detached soft labels p. A row of zeros (no soft labels) gives a divergence of 0.
        scores: (B, C) scores of the student.

    Source: arXiv 1503.02531, section 2; the factor T^2 preserves the magnitude of the gradient.
    """
    valid = teacher.sum(dim=-1, keepdim=True) > 0
    target = torch.softmax(teacher.clamp_min(torch.finfo(teacher.dtype).tiny).log() / temperature, dim=-1) * valid
    student = log_softmax(scores / temperature, dim=-1)
    return temperature**2 * kl_div(student, target.to(student.dtype), reduction="none").sum(dim=-1)
