"""How much nearer a picture is to its own class than to any other, as a frozen CLIP sees them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from syncclip.clip.backbone import BackboneSettings
from syncclip.settings import Settings
from syncclip.synthesis.filters.frozen_clip import FrozenClip
from syncclip.synthesis.filters.judging import Batch, Filter, Verdict


class ClipMarginSettings(Settings):
    """Rejects pictures that look like another class, or too nearly so."""

    name: Literal["clip_margin"] = "clip_margin"
    backbone: BackboneSettings | None = None
    """The judge; the recipe's backbone where it is not given."""
    minimum: float = Field(0.0, ge=-2, le=2)
    """Least difference between the cosine to the own class's sentence and the largest to another class's."""


class ClipMargin(Filter):
    """See `ClipMarginSettings`; the score is that difference."""

    name = "clip_margin"

    def __init__(self, settings: ClipMarginSettings, clip: FrozenClip) -> None:
        self.settings, self.clip = settings, clip

    def judge(self, batch: Batch) -> Verdict:
        import torch

        cosines = self.clip.features(batch.images) @ self.clip.classes.T  # (N, C)
        place = torch.tensor(list(batch.labels), device=cosines.device)[:, None]
        others = cosines.scatter(1, place, -torch.inf)
        scores = [float(margin) for margin in cosines.gather(1, place)[:, 0] - others.max(dim=1).values]
        return Verdict(scores, [score >= self.settings.minimum for score in scores])
