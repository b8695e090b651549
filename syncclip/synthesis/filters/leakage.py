"""Images that are too close to a test image: a generator may have learnt them by heart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from syncclip import storage
from syncclip.clip.backbone import BackboneSettings
from syncclip.core.settings import Settings, UserError
from syncclip.shards.reader import ImageSet
from syncclip.synthesis.filters import assets
from syncclip.synthesis.filters.base import Filter, FilterBatch, FilterResult
from syncclip.synthesis.filters.clip import FrozenClip, encode_set


class LeakageSettings(Settings):
    """Rejects images that a frozen CLIP can hardly distinguish from one of the dataset's test images, of any class."""

    name: Literal["leakage"] = "leakage"
    """Rejects images whose CLIP features are nearly those of a test image."""
    backbone: BackboneSettings | None = None
    """The CLIP that scores; the recipe's backbone where it is not given."""
    similarity: float = Field(0.97, gt=0, le=1)
    """Cosine from which on an image counts as a copy."""
    digest: str = ""
    """Of the test images' features; filled in when a set is started."""


class Leakage(Filter):
    """See `LeakageSettings`; the score is 1 - the cosine to the nearest test image."""

    name = "leakage"

    def __init__(self, settings: LeakageSettings, clip: FrozenClip, url: str) -> None:
        self.settings, self.clip = settings, clip
        self.known = assets.fetch(url, settings.digest, self.name)["features"].float().to(clip.device)  # (T, D)

    def score(self, batch: FilterBatch) -> FilterResult:
        nearest = [float(cosine) for cosine in (self.clip.features(batch.images) @ self.known.T).max(dim=1).values]
        return FilterResult([1 - one for one in nearest], [one < self.settings.similarity for one in nearest])


def with_leakage_digest(settings: LeakageSettings, url: str, test_images: Callable[[], ImageSet]) -> LeakageSettings:
    """Store the test images' features beside the set at `url`, and note their digest. They are computed once.

    Raises:
        UserError: the dataset has no test images, or none that can be read.
    """
    import torch

    if settings.digest and storage.exists(assets.asset_url(url, settings.digest)):
        return settings
    images = test_images()
    assert settings.backbone is not None, "`draft` names it"
    clip = FrozenClip(settings.backbone, [], "cuda" if torch.cuda.is_available() else "cpu")
    kept, features = encode_set(images, clip, range(len(images)), "leakage")
    if not kept:
        raise UserError("filter 'leakage': no test image can be read; check the dataset, or remove the filter")
    refusal = (
        f"filter 'leakage': {assets.asset_url(url, settings.digest)} is gone, and the test images are not those "
        "that the set was started with; restore it or generate into another folder"
    )
    return settings.model_copy(
        update={"digest": assets.store(url, {"features": features.half()}, settings.digest, refusal)}
    )
