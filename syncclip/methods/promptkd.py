"""PromptKD: visual prompts and a projector that learn to say what a larger, prompted CLIP says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.distillation import distillation
from syncclip.methods.prompts import checked_depth, deep_prompts
from syncclip.methods.weight_settings import PromptKdSettings

MOMENTUM, EPS = 0.1, 1e-5
"""Of the running statistics, and beside the variance; torch's defaults, which the published code has."""


class PromptKd(Method):
    """Unsupervised prompt distillation (arXiv 2403.02781).

    The student has visual prompts, as VPT does, and a projector to the teacher's width: two linear layers, the first
    with batch norm and ReLU behind it. It has no text tower: its class vectors are the teacher's, which become part of
    what a run results in. With the teacher's probabilities p and the student's q, both over all C classes, the loss is
    w T^2 KL(p || q) / C, a mean over images; no label is used.

    The paper learns from all real training images without their labels, those of novel classes included. Here real
    images of novel classes aren't known, and the teacher speaks of the synthetic images: only these are learned from.
    Real ones of base classes, which a recipe may also give, take no part.

    Batch norm has the statistics of the step's images, on all ranks, in the loss, and the running ones in
    `image_features`. Like the class vectors, these are parameters that no loss reaches: an optimiser leaves them alone,
    and checkpoints and results hold them.

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
        """(C, D_t) the teacher's class vectors; zeros before it was met."""
        return self.class_vectors[classes].detach()

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """(B, D_t) projected features, not normalised, with the running statistics."""
        hidden = self.narrow(self.raw_features(images))
        return self.projected(hidden, self.running_mean.detach(), self.running_var.detach())

    def raw_features(self, images: Tensor) -> Tensor:
        """(B, D) features of the prompted tower, not normalised."""
        return self.clip.encode_images(images, list(self.vision_prompts))

    def projected(self, hidden: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """(B, D_t) the projector's output from that of its first layer, with the statistics (D_t,) of batch norm."""
        normal = (hidden - mean) * (variance + EPS).rsqrt() * self.norm_weight + self.norm_bias
        features: Tensor = self.last(relu(normal))
        return features

    def training_features(self, images: Tensor) -> Tensor:
        """(B, D_t) projected features, not normalised, with the statistics of the step; the running ones follow them.

        Raises:
            UserError: the step has fewer than two images.
        """
        hidden = self.narrow(self.work.images(self.raw_features, images))
        every = self.work.gather(hidden).flatten(0, 1)
        if (count := len(every)) < 2:
            raise UserError(
                f"promptkd: {count} synthetic image(s) in a step, but batch norm needs two; raise training.batch_size"
            )
        variance, mean = torch.var_mean(every, dim=0, correction=0)
        if self.training:
            with torch.no_grad():
                self.running_mean.lerp_(mean, MOMENTUM)
                self.running_var.lerp_(variance * count / (count - 1), MOMENTUM)
        return self.projected(hidden, mean, variance)

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """One term, which its weight is part of: a single one has none besides."""
        if batch.teacher is None:
            raise UserError("promptkd learns from a teacher alone; name the folder of one's files in training.teacher")
        real, settings = batch.sizes[0], self.settings
        scores = self.scores(self.training_features(batch.images[real:]), self.text_features())
        each = distillation(batch.teacher[real:], scores, settings.temperature)
        return {"distillation": settings.distillation_weight * each.mean() / scores.shape[1]}
