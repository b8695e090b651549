"""Three filters by a frozen CLIP: is an image read as its own class, how much nearer to it than to others, how near to
its prompt.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from syncclip.clip.backbone import BackboneSettings
from syncclip.core.settings import Settings
from syncclip.synthesis.filters.base import Filter, FilterBatch, FilterResult
from syncclip.synthesis.filters.clip import FrozenClip


class ClipScoreSettings(Settings):
    """Rejects images that a frozen CLIP doesn't read, zero-shot, as their own class among the set's classes."""

    name: Literal["clip_score"] = "clip_score"
    """Rejects images in which CLIP doesn't recognise their class."""
    backbone: BackboneSettings | None = None
    """The CLIP that scores; the recipe's backbone where it is not given."""
    probability: float = Field(0.0, ge=0, le=1)
    """Least zero-shot probability of the own class."""
    top: int | None = Field(None, ge=1)
    """The own class must be among the `top` most probable ones."""

    @model_validator(mode="after")
    def _check_limits(self) -> ClipScoreSettings:
        if self.probability == 0 and self.top is None:
            raise ValueError(
                "a clip_score filter needs 'probability' above 0, 'top', or both; it would keep everything"
            )
        return self


class ClipScore(Filter):
    """See `ClipScoreSettings`; the score is the zero-shot probability of the own class."""

    name = "clip_score"

    def __init__(self, settings: ClipScoreSettings, clip: FrozenClip) -> None:
        self.settings, self.clip = settings, clip

    def score(self, batch: FilterBatch) -> FilterResult:
        import torch

        with torch.inference_mode():
            logits = self.clip.backbone.logit_scale * self.clip.features(batch.images) @ self.clip.classes.T  # (N, C)
            own = logits.gather(1, torch.tensor(list(batch.labels), device=logits.device)[:, None])  # (N, 1)
            scores = [float(p) for p in (own - logits.logsumexp(dim=1, keepdim=True)).exp()[:, 0]]
            ranks = [int(better) for better in (logits > own).sum(dim=1)]
        top = self.settings.top
        return FilterResult(
            scores,
            [
                score >= self.settings.probability and (top is None or rank < top)
                for score, rank in zip(scores, ranks, strict=True)
            ],
        )


class ClipMarginSettings(Settings):
    """Rejects images that look like another class, or too nearly so."""

    name: Literal["clip_margin"] = "clip_margin"
    """Rejects images that CLIP finds hardly more like their class than like the most similar other one."""
    backbone: BackboneSettings | None = None
    """The CLIP that scores; the recipe's backbone where it is not given."""
    minimum: float = Field(0.0, ge=-2, le=2)
    """Least difference between the cosine to the own class's sentence and the largest to another class's."""


class ClipMargin(Filter):
    """See `ClipMarginSettings`; the score is that difference."""

    name = "clip_margin"

    def __init__(self, settings: ClipMarginSettings, clip: FrozenClip) -> None:
        self.settings, self.clip = settings, clip

    def score(self, batch: FilterBatch) -> FilterResult:
        import torch

        cosines = self.clip.features(batch.images) @ self.clip.classes.T  # (N, C)
        place = torch.tensor(list(batch.labels), device=cosines.device)[:, None]
        others = cosines.scatter(1, place, -torch.inf)
        scores = [float(margin) for margin in cosines.gather(1, place)[:, 0] - others.max(dim=1).values]
        return FilterResult(scores, [score >= self.settings.minimum for score in scores])


class ClipSimilaritySettings(Settings):
    """Rejects images that don't show what their prompt says, whatever the other classes are.

    The cosine that good images have differs among CLIPs: about 0.25 to 0.35 for OpenAI's. The scores of a first
    shard, which are beside its images, show where to cut.
    """

    name: Literal["clip_similarity"] = "clip_similarity"
    """Rejects images whose features are far from those of their own prompt."""
    backbone: BackboneSettings | None = None
    """The CLIP that scores; the recipe's backbone where it is not given."""
    minimum: float = Field(ge=-1, le=1)
    """Least cosine between image and prompt."""


class ClipSimilarity(Filter):
    """See `ClipSimilaritySettings`; the score is that cosine (CLIPScore, arXiv 2104.08718, is 2.5 times as much)."""

    name = "clip_similarity"

    def __init__(self, settings: ClipSimilaritySettings, clip: FrozenClip) -> None:
        self.settings, self.clip = settings, clip

    def score(self, batch: FilterBatch) -> FilterResult:
        cosines = (self.clip.features(batch.images) * self.clip.sentences(batch.prompts)).sum(dim=1)
        scores = [float(cosine) for cosine in cosines]
        return FilterResult(scores, [score >= self.settings.minimum for score in scores])
