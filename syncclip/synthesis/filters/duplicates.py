"""Filters for near-duplicates of accepted images of the same class in the same shard.

Shards are generated independently and in any order, so a filter can't use images of other shards without making bytes
depend on that order. Duplicates across shards are counted afterwards, by `syncclip shards quality`.
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
    """Reject near-duplicates by a perceptual hash, without a model. Put it last among the filters."""

    name: Literal["duplicate"] = "duplicate"
    """Reject images with nearly the perceptual hash of an earlier image of the class."""
    bits: int = Field(4, ge=0, le=63)
    """Maximum Hamming distance (of 64 bits) between near-duplicates."""


class ClipDuplicateSettings(Settings):
    """Reject near-duplicates by the features of a frozen CLIP. Put it last among the filters."""

    name: Literal["clip_duplicate"] = "clip_duplicate"
    """Reject images with nearly the CLIP features of an earlier image of the class."""
    backbone: BackboneSettings | None = None
    """CLIP for scoring; default: the recipe's backbone."""
    similarity: float = Field(0.97, gt=0, le=1)
    """Minimum cosine between near-duplicates."""


class _Duplicates(Filter):
    """Compares with accepted images of the class, and with images of the batch that it kept.

    The score is 1 - the largest similarity, 1 where there is no image to compare with.
    """

    threshold: float
    """Minimum similarity of near-duplicates."""

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
        """(N, D) normalised vectors, whose inner product is the similarity."""


class Duplicate(_Duplicates):
    """See `DuplicateSettings`; the similarity at a Hamming distance b is 1 - b / 32."""

    name = "duplicate"

    def __init__(self, settings: DuplicateSettings) -> None:
        self.threshold = 1 - (settings.bits + 0.5) / 32
        self.begin()

    def _vectors(self, images: Sequence[Image.Image]) -> Vectors:
        return np.stack([difference_hash(image) for image in images]) / 8


class ClipDuplicate(_Duplicates):
    """See `ClipDuplicateSettings`; the similarity is the cosine."""

    name = "clip_duplicate"

    def __init__(self, settings: ClipDuplicateSettings, clip: FrozenClip) -> None:
        self.threshold, self.clip = settings.similarity, clip
        self.begin()

    def _vectors(self, images: Sequence[Image.Image]) -> Vectors:
        vectors: Vectors = self.clip.features(images).double().cpu().numpy()
        return vectors


def check_scope(names: Sequence[str], shard_size: int, classes: int) -> None:
    """Reject duplicate filters for shards with a single image per class, which leave nothing to compare.

    Raises:
        UserError: shards are too small; the message suggests a size.
    """
    name = next((name for name in names if name in (Duplicate.name, ClipDuplicate.name)), None)
    if name is not None and shard_size <= classes:
        raise UserError(
            f"filter {name!r} compares images of a class within a shard, but shards of {shard_size} hold at most one "
            f"of each of {classes} classes; set synthesis.shard_size, for instance to {8 * classes} for eight of each"
        )


def difference_hash(image: Image.Image) -> npt.NDArray[np.int8]:
    """(64,) of -1 and 1: whether each of 8 x 8 cells is brighter than its right neighbour (dHash, N. Krawetz 2013)."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS), np.int16)
    return np.where(small[:, :-1] > small[:, 1:], 1, -1).astype(np.int8).ravel()
