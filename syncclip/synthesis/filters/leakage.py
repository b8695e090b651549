"""Filter for near-duplicates of test images, which a generator may have memorised."""

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
    """Reject near-duplicates of the dataset's test images, regardless of class, based on frozen CLIP features."""

    name: Literal["leakage"] = "leakage"
    """Reject near-duplicates of test images based on CLIP features."""
    backbone: BackboneSettings | None = None
    """CLIP model that computes the features; default: the recipe's backbone."""
    similarity: float = Field(0.97, gt=0, le=1)
    """Minimum cosine similarity between near-duplicates."""
    checksum: str = ""
    """Checksum of the test images' features, set when the dataset is created."""


class Leakage(Filter):
    """Filter configured by `LeakageSettings`; the score is 1 minus the largest cosine similarity to a test image."""

    name = "leakage"

    def __init__(self, settings: LeakageSettings, clip: FrozenClip, url: str) -> None:
        self.settings, self.clip = settings, clip
        self.test_features = assets.fetch(url, settings.checksum, self.name)["features"].float().to(clip.device)

    def score(self, batch: FilterBatch) -> FilterResult:
        cosines = (self.clip.features(batch.images) @ self.test_features.T).max(dim=1).values
        nearest = [float(cosine) for cosine in cosines]
        return FilterResult([1 - cosine for cosine in nearest], [value < self.settings.similarity for value in nearest])


def with_leakage_checksum(settings: LeakageSettings, url: str, test_images: Callable[[], ImageSet]) -> LeakageSettings:
    """Store the test images' features in the dataset at `url`, and return the settings with the features' checksum."""
    import torch

    if settings.checksum and storage.exists(assets.asset_url(url, settings.checksum)):
        return settings
    images = test_images()
    assert settings.backbone is not None, "set by `draft`"
    clip = FrozenClip(settings.backbone, [], "cuda" if torch.cuda.is_available() else "cpu")
    kept, features = encode_set(images, clip, range(len(images)), "leakage")
    if not kept:
        raise UserError("filter 'leakage': the test split has no readable images; fix the split, or remove the filter")
    mismatch = (
        f"filter 'leakage': {assets.asset_url(url, settings.checksum)} is missing, and the test images have changed "
        "since the dataset was created; restore the file, or generate into a different folder"
    )
    checksum = assets.store(url, {"features": features.half()}, settings.checksum, mismatch)
    return settings.model_copy(update={"checksum": checksum})
