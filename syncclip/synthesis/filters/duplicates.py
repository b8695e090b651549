"""Filters that reject near-duplicates among images of the same class in a shard.

Shards may be generated in any order, so their contents can't depend on other shards. `syncclip shards quality` counts
duplicates across shards.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from syncclip.clip.backbone import BackboneSettings
from syncclip.core.settings import Settings, UserError
from syncclip.synthesis.filters.base import Filter, FilterBatch, FilterResult
from syncclip.synthesis.filters.clip import FrozenClip

Vectors = npt.NDArray[np.float64]


class DuplicateSettings(Settings):
    """Reject near-duplicates based on perceptual hashes. Use this filter last."""

    name: Literal["duplicate"] = "duplicate"
    """Reject near-duplicates of earlier images of the same class based on perceptual hashes."""
    bits: int = Field(4, ge=0, le=63)
    """Maximum Hamming distance (of 64 bits) between near-duplicates."""


class ClipDuplicateSettings(Settings):
    """Reject near-duplicates based on features from a frozen CLIP model. Use this filter last."""

    name: Literal["clip_duplicate"] = "clip_duplicate"
    """Reject near-duplicates of earlier images of the same class based on CLIP features."""
    backbone: BackboneSettings | None = None
    """CLIP model that computes the features; default: the recipe's backbone."""
    similarity: float = Field(0.97, gt=0, le=1)
    """Minimum cosine similarity between near-duplicates."""


class _Duplicates(Filter):
    """Base class of duplicate filters; the score is 1 minus the largest similarity to an image of the same class."""

    threshold: float
    """Minimum similarity between near-duplicates."""

    def begin(self) -> None:
        self._accepted: dict[int, dict[int, Vectors]] = defaultdict(dict)  # label -> index -> vector

    def score(self, batch: FilterBatch) -> FilterResult:
        vectors = {label: dict(self._accepted[label]) for label in set(batch.labels)}
        scores, keep = [], []
        for label, index, vector in zip(batch.labels, batch.indices, self._vectors(batch.images), strict=True):
            others = [other for other_index, other in vectors[label].items() if other_index != index]
            nearest = max((float(vector @ other) for other in others), default=0.0)
            scores.append(1.0 - nearest)
            keep.append(nearest < self.threshold)
            if keep[-1]:
                vectors[label][index] = vector
        return FilterResult(scores, keep)

    def accept(self, batch: FilterBatch) -> None:
        for label, index, vector in zip(batch.labels, batch.indices, self._vectors(batch.images), strict=True):
            self._accepted[label][index] = vector

    @abstractmethod
    def _vectors(self, images: Sequence[Image.Image]) -> Vectors:
        """Return normalised vectors with shape (N, D), whose inner products are the similarities."""


class Duplicate(_Duplicates):
    """Filter configured by `DuplicateSettings`; the similarity at a Hamming distance of b bits is 1 - b / 32."""

    name = "duplicate"

    def __init__(self, settings: DuplicateSettings) -> None:
        self.threshold = 1 - (settings.bits + 0.5) / 32
        self.begin()

    def _vectors(self, images: Sequence[Image.Image]) -> Vectors:
        return np.stack([difference_hash(image) for image in images]) / 8


class ClipDuplicate(_Duplicates):
    """Filter configured by `ClipDuplicateSettings`, based on cosine similarity."""

    name = "clip_duplicate"

    def __init__(self, settings: ClipDuplicateSettings, clip: FrozenClip) -> None:
        self.threshold, self.clip = settings.similarity, clip
        self.begin()

    def _vectors(self, images: Sequence[Image.Image]) -> Vectors:
        vectors: Vectors = self.clip.features(images).double().cpu().numpy()
        return vectors


def check_scope(names: Sequence[str], shard_size: int, classes: int) -> None:
    """Raise a UserError if `names` contains a duplicate filter and shards have at most one image per class."""
    name = next((name for name in names if name in (Duplicate.name, ClipDuplicate.name)), None)
    if name is not None and shard_size <= classes:
        raise UserError(
            f"filter {name!r} compares images of a class within a shard, but {shard_size} images per shard give at "
            f"most one image per class ({classes} classes); increase synthesis.shard_size, for example to {8 * classes}"
        )


def difference_hash(image: Image.Image) -> npt.NDArray[np.int8]:
    """Return Krawetz's dHash: 1 if a cell of an 8 x 8 grid is brighter than its right neighbour, otherwise -1."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS), np.int16)
    return np.where(small[:, :-1] > small[:, 1:], 1, -1).astype(np.int8).ravel()
