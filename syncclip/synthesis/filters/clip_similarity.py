"""How near a picture is to the very sentence that it was drawn from, as a frozen CLIP sees both."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from syncclip.clip.backbone import BackboneSettings
from syncclip.settings import Settings
from syncclip.synthesis.filters.frozen_clip import FrozenClip
from syncclip.synthesis.filters.judging import Batch, Filter, Verdict


class ClipSimilaritySettings(Settings):
    """Rejects pictures that don't show what their prompt says, whatever the other classes are.

    The cosine that good pictures have differs among CLIPs: about 0.25 to 0.35 for OpenAI's. The scores of a first
    shard, which lie beside its pictures, tell where to cut.
    """

    name: Literal["clip_similarity"] = "clip_similarity"
    backbone: BackboneSettings | None = None
    """The judge; the recipe's backbone where it is not given."""
    minimum: float = Field(ge=-1, le=1)
    """Least cosine between picture and prompt."""


class ClipSimilarity(Filter):
    """See `ClipSimilaritySettings`; the score is that cosine (CLIPScore, arXiv 2104.08718, is 2.5 times as much)."""

    name = "clip_similarity"

    def __init__(self, settings: ClipSimilaritySettings, clip: FrozenClip) -> None:
        self.settings, self.clip = settings, clip

    def judge(self, batch: Batch) -> Verdict:
        cosines = (self.clip.features(batch.images) * self.clip.sentences(batch.prompts)).sum(dim=1)
        scores = [float(cosine) for cosine in cosines]
        return Verdict(scores, [score >= self.settings.minimum for score in scores])
