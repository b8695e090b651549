"""Filters by a frozen CLIP: probability of the class, margin to other classes, and similarity to the prompt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from syncclip.clip.backbone import BackboneSettings
from syncclip.core.settings import Settings
from syncclip.synthesis.filters.base import Filter, FilterBatch, FilterResult
from syncclip.synthesis.filters.clip import FrozenClip


class ClipScoreSettings(Settings):
    """Reject images whose class isn't recognised by a frozen CLIP, zero-shot among the dataset's classes."""

    name: Literal["clip_score"] = "clip_score"
    """Reject images whose class CLIP doesn't recognise."""
    backbone: BackboneSettings | None = None
    """CLIP for scoring; default: the recipe's backbone."""
    probability: float = Field(0.0, ge=0, le=1)
    """Minimum zero-shot probability of the image's class."""
    top: int | None = Field(None, ge=1)
    """Maximum rank of the image's class by probability."""

    @model_validator(mode="after")
    def _check_limits(self) -> ClipScoreSettings:
        if self.probability == 0 and self.top is None:
            raise ValueError(
                "a clip_score filter needs 'probability' above 0, 'top', or both; it would keep everything"
            )
        return self


class ClipScore(Filter):
    """See `ClipScoreSettings`; the score is the zero-shot probability of the image's class."""

    name = "clip_score"

    def __init__(self, settings: ClipScoreSettings, clip: FrozenClip) -> None:
        self.settings, self.clip = settings, clip

    def score(self, batch: FilterBatch) -> FilterResult:
        import torch

        with torch.inference_mode():
            logits = self.clip.backbone.logit_scale * self.clip.features(batch.images) @ self.clip.classes.T  # (N, C)
            target = logits.gather(1, torch.tensor(list(batch.labels), device=logits.device)[:, None])  # (N, 1)
            scores = [float(p) for p in (target - logits.logsumexp(dim=1, keepdim=True)).exp()[:, 0]]
            ranks = [int(better) for better in (logits > target).sum(dim=1)]
        top = self.settings.top
        return FilterResult(
            scores,
            [
                score >= self.settings.probability and (top is None or rank < top)
                for score, rank in zip(scores, ranks, strict=True)
            ],
        )


class ClipMarginSettings(Settings):
    """Reject images that resemble another class, or nearly so."""

    name: Literal["clip_margin"] = "clip_margin"
    """Reject images that CLIP finds hardly more similar to their class than to the nearest other one."""
    backbone: BackboneSettings | None = None
    """CLIP for scoring; default: the recipe's backbone."""
    minimum: float = Field(0.0, ge=-2, le=2)
    """Minimum difference between the cosine to the own class's prompt and the largest one to another class's."""


class ClipMargin(Filter):
    """See `ClipMarginSettings`; the score is that difference."""

    name = "clip_margin"

    def __init__(self, settings: ClipMarginSettings, clip: FrozenClip) -> None:
        self.settings, self.clip = settings, clip

    def score(self, batch: FilterBatch) -> FilterResult:
        import torch

        cosines = self.clip.features(batch.images) @ self.clip.classes.T  # (N, C)
        labels = torch.tensor(list(batch.labels), device=cosines.device)[:, None]
        others = cosines.scatter(1, labels, -torch.inf)
        scores = [float(margin) for margin in cosines.gather(1, labels)[:, 0] - others.max(dim=1).values]
        return FilterResult(scores, [score >= self.settings.minimum for score in scores])


class ClipSimilaritySettings(Settings):
    """Reject images that don't match their prompt, whatever the other classes are.

    The cosine of good images differs between CLIPs: about 0.25 to 0.35 for OpenAI's. Choose a threshold from the scores
    of a first shard, which are stored beside its images.
    """

    name: Literal["clip_similarity"] = "clip_similarity"
    """Reject images that are dissimilar to their prompt."""
    backbone: BackboneSettings | None = None
    """CLIP for scoring; default: the recipe's backbone."""
    minimum: float = Field(ge=-1, le=1)
    """Minimum cosine between image and prompt."""


class ClipSimilarity(Filter):
    """See `ClipSimilaritySettings`; the score is that cosine (CLIPScore, arXiv 2104.08718, is 2.5 times as large)."""

    name = "clip_similarity"

    def __init__(self, settings: ClipSimilaritySettings, clip: FrozenClip) -> None:
        self.settings, self.clip = settings, clip

    def score(self, batch: FilterBatch) -> FilterResult:
        cosines = (self.clip.features(batch.images) * self.clip.sentences(batch.prompts)).sum(dim=1)
        scores = [float(cosine) for cosine in cosines]
        return FilterResult(scores, [score >= self.settings.minimum for score in scores])
