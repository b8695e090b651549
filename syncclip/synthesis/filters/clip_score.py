"""Filters based on a frozen CLIP model: class probability, margin to other classes, and similarity to the prompt."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from syncclip.clip.backbone import BackboneSettings
from syncclip.core.settings import Settings
from syncclip.synthesis.filters.base import Filter, FilterBatch, FilterResult
from syncclip.synthesis.filters.clip import FrozenClip


class _ClipFilter(Filter):
    def __init__(self, settings: Any, clip: FrozenClip) -> None:
        self.settings, self.clip = settings, clip
        self.name = settings.name


class ClipScoreSettings(Settings):
    """Reject images that a zero-shot CLIP model misclassifies, with all of the dataset's classes as candidates."""

    name: Literal["clip_score"] = "clip_score"
    """Reject images that a zero-shot CLIP model misclassifies."""
    backbone: BackboneSettings | None = None
    """CLIP model for scoring; default: the recipe's backbone."""
    probability: float = Field(0.0, ge=0, le=1)
    """Minimum zero-shot probability of the image's class."""
    top: int | None = Field(None, ge=1)
    """Maximum rank of the image's class by zero-shot probability (1: most probable); default: no limit."""

    @model_validator(mode="after")
    def _check_limits(self) -> ClipScoreSettings:
        if self.probability == 0 and self.top is None:
            raise ValueError("a clip_score filter without 'probability' or 'top' accepts all images; set one of them")
        return self


class ClipScore(_ClipFilter):
    """Filter configured by `ClipScoreSettings`; the score is the zero-shot probability of the image's class."""

    def score(self, batch: FilterBatch) -> FilterResult:
        import torch

        with torch.inference_mode():
            logits = self.clip.backbone.logit_scale * self.clip.features(batch.images) @ self.clip.classes.T  # (N, C)
            target = logits.gather(1, torch.tensor(list(batch.labels), device=logits.device)[:, None])  # (N, 1)
            scores = [float(p) for p in (target - logits.logsumexp(dim=1, keepdim=True)).exp()[:, 0]]
            ranks = [int(better) for better in (logits > target).sum(dim=1)]
        minimum, top = self.settings.probability, self.settings.top
        pairs = zip(scores, ranks, strict=True)
        return FilterResult(scores, [score >= minimum and (top is None or rank < top) for score, rank in pairs])


class ClipMarginSettings(Settings):
    """Reject images whose CLIP similarity to their own class prompt doesn't exceed the similarity to every other class
    prompt by a minimum margin."""

    name: Literal["clip_margin"] = "clip_margin"
    """Reject images whose CLIP similarity to their own class prompt doesn't exceed the similarity to every other class
    prompt by a minimum margin."""
    backbone: BackboneSettings | None = None
    """CLIP model for scoring; default: the recipe's backbone."""
    minimum: float = Field(0.0, ge=-2, le=2)
    """Minimum margin: cosine similarity to the image's own class prompt minus the maximum over other class prompts."""


class ClipMargin(_ClipFilter):
    """Filter configured by `ClipMarginSettings`; the score is the margin."""

    def score(self, batch: FilterBatch) -> FilterResult:
        import torch

        cosines = self.clip.features(batch.images) @ self.clip.classes.T  # (N, C)
        labels = torch.tensor(list(batch.labels), device=cosines.device)[:, None]
        others = cosines.scatter(1, labels, -torch.inf)
        scores = [float(margin) for margin in cosines.gather(1, labels)[:, 0] - others.max(dim=1).values]
        return FilterResult(scores, [score >= self.settings.minimum for score in scores])


class ClipSimilaritySettings(Settings):
    """Reject images that don't match their prompt, regardless of other classes.

    Typical similarities depend on the CLIP model; for OpenAI's models, they range from 0.25 to 0.35. Choose a threshold
    based on the scores stored with the first shard.
    """

    name: Literal["clip_similarity"] = "clip_similarity"
    """Reject images whose CLIP similarity to their prompt is low."""
    backbone: BackboneSettings | None = None
    """CLIP model for scoring; default: the recipe's backbone."""
    minimum: float = Field(ge=-1, le=1)
    """Minimum cosine similarity between image and prompt."""


class ClipSimilarity(_ClipFilter):
    """Filter configured by `ClipSimilaritySettings`; the score is the cosine (0.4 × CLIPScore, arXiv 2104.08718)."""

    def score(self, batch: FilterBatch) -> FilterResult:
        cosines = (self.clip.features(batch.images) * self.clip.sentences(batch.prompts)).sum(dim=1)
        scores = [float(cosine) for cosine in cosines]
        return FilterResult(scores, [score >= self.settings.minimum for score in scores])
