"""Whether a frozen CLIP reads a picture as its own class, among all classes of the set."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from syncclip.clip.backbone import BackboneSettings
from syncclip.settings import Settings
from syncclip.synthesis.filters.frozen_clip import FrozenClip
from syncclip.synthesis.filters.judging import Batch, Filter, Verdict


class ClipScoreSettings(Settings):
    """Rejects pictures that a frozen CLIP doesn't read, zero-shot, as their own class among the set's classes."""

    name: Literal["clip_score"] = "clip_score"
    backbone: BackboneSettings | None = None
    """The judge; the recipe's backbone where it is not given."""
    probability: float = Field(0.0, ge=0, le=1)
    """Least zero-shot probability of the own class."""
    top: int | None = Field(None, ge=1)
    """The own class must be among the `top` most probable ones."""

    @model_validator(mode="after")
    def _judges_something(self) -> ClipScoreSettings:
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

    def judge(self, batch: Batch) -> Verdict:
        import torch

        with torch.inference_mode():
            logits = self.clip.backbone.logit_scale * self.clip.features(batch.images) @ self.clip.classes.T  # (N, C)
            own = logits.gather(1, torch.tensor(list(batch.labels), device=logits.device)[:, None])  # (N, 1)
            scores = [float(p) for p in (own - logits.logsumexp(dim=1, keepdim=True)).exp()[:, 0]]
            ranks = [int(better) for better in (logits > own).sum(dim=1)]
        top = self.settings.top
        return Verdict(
            scores,
            [
                score >= self.settings.probability and (top is None or rank < top)
                for score, rank in zip(scores, ranks, strict=True)
            ],
        )
