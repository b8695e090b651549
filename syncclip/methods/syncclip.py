"""SYNC-CLIP: domain-specific and shared prompts, with the features of both domains aligned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, relu

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.distillation import distillation
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.prompts import deep_prompts
from syncclip.methods.settings import Negatives, SyncClipSettings


class SyncClip(Ivlp):
    """SYNC-CLIP (arXiv 2312.03805): visual prompts that are partly domain-specific, partly shared.

    In each prompted block, with real prompt R and synthetic prompt S, real images are encoded with R and synthetic ones
    with S followed by R[k:]: R[:k] is specific to the real domain, S to the synthetic one, and R[k:] is shared. Text
    prompts are shared by both domains. Test images are real.

    Three losses: cross entropy of real images over the base classes; cross entropies of synthetic images of base and of
    novel classes over all classes; and the alignment of the domains. A fourth one, not in the paper, is disabled by
    default: the divergence from a teacher's probabilities over all classes, averaged over the synthetic images.
    """

    Settings = SyncClipSettings
    settings: SyncClipSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: SyncClipSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        self.negatives = settings.negatives
        self.weights = {"synthetic": settings.synthetic_weight, "alignment": settings.alignment_weight}
        if settings.taught:
            self.weights = {**self.weights, "distillation": settings.distillation_weight}
        self.synthetic_prompts = deep_prompts(len(self.vision_prompts), settings.domain_tokens, clip.vision.width)

    def domain_prompts(self, domains: Tensor) -> list[Tensor]:
        """The prompts (B, N, width) of each image's domain, by block."""
        synthetic = domains.bool()[:, None, None]
        return [
            torch.where(synthetic, torch.cat([specific, real[len(specific) :]]), real)
            for real, specific in zip(self.vision_prompts, self.synthetic_prompts, strict=True)
        ]

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        if domains is None:
            return super().image_features(images)
        return self.clip.encode_images(images, self.domain_prompts(domains))

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        features = self.loss_features(batch.images, batch.domains)  # of all groups in one pass
        text = self.candidate_features(self.candidates(batch))
        terms = domain_terms(self, batch, features, text, self.negatives)
        real = batch.sizes[0]
        if self.settings.taught and batch.teacher is not None and len(features) > real:
            scores = self.scores(features[real:], text)
            terms["distillation"] = distillation(batch.teacher[real:], scores, self.settings.temperature).mean()
        return terms


def domain_terms(
    method: Method, batch: TrainingBatch, features: Tensor, text: Tensor, negatives: Negatives
) -> dict[str, Tensor]:
    """SYNC-CLIP's losses, for any method whose image features depend on the domain.

    Args:
        features: (N, D) features of the batch's images, not normalised.
        text: (C, D) features of the candidate classes.
    """
    sizes = list(batch.sizes)
    real, seen, novel = torch.split(features, sizes)
    real_labels, seen_labels, novel_labels = torch.split(batch.labels, sizes)
    terms = {}
    if len(real):
        terms["real"] = cross_entropy(method.scores(real, text[: method.base]), real_labels)
    if len(seen) or len(novel):
        terms["synthetic"] = torch.stack(
            [
                cross_entropy(method.scores(group, text), labels)
                for group, labels in ((seen, seen_labels), (novel, novel_labels))
                if len(labels)
            ]
        ).sum()
    if len(real) and len(seen):
        # The nearest negative is searched among all ranks' real images, so that it does not depend on their number.
        all_real, all_labels = (method.work.gather(rows).flatten(0, 1) for rows in (real, real_labels))
        terms["alignment"] = alignment(all_real, seen, all_labels, negatives, method.work.rank * len(real))
    return terms


def alignment(
    real: Tensor, synthetic: Tensor, labels: Tensor, negatives: Negatives = "hardest", first: int = 0
) -> Tensor:
    """Pull each synthetic feature towards its real partner, and closer to it than to real features of other classes.

    With d the mean absolute difference, p = d(partner) and q = d(nearest feature of another class), this is the mean of
    max(0, p - q) + p. If the batch has no other class, q = p.

    Args:
        real: (N, D) features, not normalised.
        synthetic: (B, D) features, not normalised; row i is the partner of the real row first + i.
        labels: (N,) class ids of the real rows.
        negatives: "all" replaces max(0, p - q) by the mean of max(0, p - d) over all features of other classes.

    Source: the feature alignment of arXiv 2312.03805, as in its published code (margin 0, hardest negative).
    """
    distance = distances(synthetic, real)
    positive = distance.diagonal(first)
    other = labels[first : first + len(synthetic), None] != labels
    if negatives == "all":
        farther = relu(positive[:, None] - distance).masked_fill(~other, 0).sum(dim=1) / other.sum(dim=1).clamp(min=1)
        return (farther + positive).mean()
    nearest = distance.masked_fill(~other, torch.inf).amin(dim=1)
    negative = torch.where(other.any(dim=1), nearest, positive)
    return (relu(positive - negative) + positive).mean()


def distances(synthetic: Tensor, real: Tensor) -> Tensor:
    """(B, N) mean absolute differences; row: synthetic, column: real."""
    return (synthetic[:, None] - real).abs().mean(dim=-1)
