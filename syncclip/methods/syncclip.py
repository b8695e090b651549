"""SYNC-CLIP: domain-specific and shared prompts, and feature alignment between domains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, relu

from syncclip.clip.prompted import PromptedClip
from syncclip.methods.base import Method, TrainingBatch
from syncclip.methods.class_vectors import ClassVectors
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.promptkd import distillation
from syncclip.methods.prompts import deep_prompts
from syncclip.methods.settings import Negatives, SyncClipSettings, TestDomain


class SyncClip(ClassVectors, Ivlp):
    """SYNC-CLIP (arXiv 2312.03805): visual prompts with domain-specific and shared parts.

    Each prompted block has a prompt R for real images and k tokens S for synthetic images. Real images are encoded with
    R, and synthetic images with S followed by R[k:]. R[:k] and S are domain-specific, whereas R[k:] and the text
    prompts are shared. Test images are treated as real; `test_domain` is an extension that selects the prompts of the
    synthetic domain, or averages the logits of both domains.

    The losses are cross entropy on real images over the base classes, cross entropy on synthetic images of base and
    novel classes over all classes, and domain alignment. A fourth loss, which is not in the paper and is disabled by
    default, is the KL divergence from a teacher's soft labels on synthetic images, over all classes.

    With `class_vectors`, another extension, a learned vector per class replaces the text prompts.
    """

    Settings = SyncClipSettings
    settings: SyncClipSettings

    def __init__(
        self, clip: PromptedClip, classnames: Sequence[str], base: int, template: str, settings: SyncClipSettings
    ) -> None:
        super().__init__(clip, classnames, base, template, settings)
        if settings.class_vectors:
            del self.text_prompts, self.tokens  # after the draws of random numbers, which determine the visual prompts
            self.add_vectors((template,), raw=False)
        self.negatives = settings.negatives
        self.weights = {"synthetic": settings.synthetic_weight, "alignment": settings.alignment_weight}
        if settings.uses_teacher:
            self.weights = {**self.weights, "distillation": settings.distillation_weight}
        if type(self).logits_given is SyncClip.logits_given:
            self.has_several_image_features = settings.test_domain == "both"
        self.synthetic_prompts = deep_prompts(len(self.vision_prompts), settings.domain_tokens, clip.vision.width)

    def step_begins(self, step: int, steps: int) -> None:  # noqa: ARG002
        if self.settings.class_vectors:
            self.begin_vectors(step)

    def text_features(self, classes: slice = slice(None)) -> Tensor:
        return self.vector_features(classes) if self.settings.class_vectors else super().text_features(classes)

    def domain_prompts(self, domains: Tensor) -> list[Tensor]:
        """Return each block's prompts (B, N, width), selected by image domain."""
        synthetic = domains.bool()[:, None, None]
        return [
            torch.where(synthetic, torch.cat([specific, real[len(specific) :]]), real)
            for real, specific in zip(self.vision_prompts, self.synthetic_prompts, strict=True)
        ]

    def image_features(self, images: Tensor, domains: Tensor | None = None) -> Tensor:
        """Return the raw features (B, D), by default with the prompts of `test_domain` ("real" if it is "both")."""
        if domains is None:
            return self._features_of("synthetic" if self.settings.test_domain == "synthetic" else "real", images)
        return self.clip.encode_images(images, self.domain_prompts(domains))

    def _features_of(self, domain: TestDomain, images: Tensor) -> Tensor:
        """Return the raw features (B, D) of images that all belong to one domain."""
        if domain == "real":
            return super().image_features(images)
        pairs = zip(self.vision_prompts, self.synthetic_prompts, strict=True)
        return self.clip.encode_images(images, [torch.cat([own, real[len(own) :]]) for real, own in pairs])

    def logits_given(self, text: Tensor, images: Tensor, domains: Tensor | None = None) -> Tensor:
        if domains is not None or self.settings.test_domain != "both":
            return super().logits_given(text, images, domains)
        return self._logits_of(text, images, [None])[0]

    def logits_by_domain(self, images: Tensor, domains: Sequence[TestDomain | None]) -> list[Tensor]:
        if {*domains} <= {None}:
            return [self.logits(images)]
        return self._logits_of(self._text_features_once(), images, domains)

    def _logits_of(self, text: Tensor, images: Tensor, domains: Sequence[TestDomain | None]) -> list[Tensor]:
        """Return the logits (B, C) for each test domain (None: `test_domain`); each domain is encoded once."""
        wanted = [domain or self.settings.test_domain for domain in domains]
        names: tuple[TestDomain, ...] = ("real", "synthetic")
        encoded = [name for name in names if {name, "both"} & {*wanted}]
        single = {name: self.scores(self._features_of(name, images), text) for name in encoded}
        return [torch.stack(list(single.values())).mean(0) if name == "both" else single[name] for name in wanted]

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        features = self.loss_features(batch.images, batch.domains)  # all groups in one pass
        text = self.candidate_features(self.candidates(batch))
        terms = domain_terms(self, batch, features, text, self.negatives)
        real = batch.sizes[0]
        if self.settings.uses_teacher and batch.teacher is not None and len(features) > real:
            scores = self.scores(features[real:], text)
            terms["distillation"] = distillation(batch.teacher[real:], scores, self.settings.temperature).mean()
        return terms


def domain_terms(
    method: Method, batch: TrainingBatch, features: Tensor, text: Tensor, negatives: Negatives
) -> dict[str, Tensor]:
    """Return the SYNC-CLIP loss terms for any method whose image features depend on the domain.

    Args:
        features: (N, D) raw features of the batch's images.
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
        # Negatives are the real images of all ranks, so that the loss does not depend on the number of ranks.
        all_real, all_labels = (method.work.gather(rows).flatten(0, 1) for rows in (real, real_labels))
        terms["alignment"] = alignment(all_real, seen, all_labels, negatives, method.work.rank * len(real))
    return terms


def alignment(
    real: Tensor, synthetic: Tensor, labels: Tensor, negatives: Negatives = "hardest", first: int = 0
) -> Tensor:
    """Return a loss that pulls synthetic features towards real partners and away from real features of other classes.

    Let d be the mean absolute difference, p = d(partner) and q = d(nearest feature of a different class), with q = p
    if the batch contains only one class. The loss is the mean of max(0, p - q) + p.

    Args:
        real: (N, D) raw features.
        synthetic: (B, D) raw features; row i is the partner of the real row first + i.
        labels: (N,) class ids of the real rows.
        negatives: "all" replaces max(0, p - q) with the mean of max(0, p - d) over all features of other classes.

    Source: feature alignment in arXiv 2312.03805, as in its published code (margin 0, hardest negative).
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
    """Return the mean absolute differences (B, N) between synthetic (rows) and real (columns) features."""
    return (synthetic[:, None] - real).abs().mean(dim=-1)
