"""Near-duplicates of images that the same shard has of the same class already.

Shards are generated independently and in any order, so a filter can't know other shards' images without making bytes
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
    """Rejects images that look the same, by a perceptual hash: no model is asked. Put it last among the filters."""

    name: Literal["duplicate"] = "duplicate"
    """Rejects images whose perceptual hash is nearly that of an earlier one of the class."""
    bits: int = Field(4, ge=0, le=63)
    """Of the hash's 64 bits, so many may differ between near-duplicates."""


class ClipDuplicateSettings(Settings):
    """Rejects images that a frozen CLIP can hardly distinguish from one of their class. Put it last."""

    name: Literal["clip_duplicate"] = "clip_duplicate"
    """Rejects images whose CLIP features are nearly those of an earlier one of the class."""
    backbone: BackboneSettings | None = None
    """The CLIP that scores; the recipe's backbone where it is not given."""
    similarity: float = Field(0.97, gt=0, le=1)
    """Cosine from which on two images are near-duplicates."""


class _Duplicates(Filter):
    """Compares with the accepted images of the class, and with those before in the batch that it kept itself.

    The score is 1 - the largest similarity, 1 where there is nothing to compare with.
    """

    least: float
    """Similarity from which on two images are near-duplicates."""

    def begin(self) -> None:
        self._accepted: dict[int, dict[int, Vectors]] = defaultdict(dict)  # label -> index -> vector

    def score(self, batch: FilterBatch) -> FilterResult:
        known = {label: dict(self._accepted[label]) for label in set(batch.labels)}
        scores, keep = [], []
        for label, index, vector in zip(batch.labels, batch.indices, self._vectors(batch.images), strict=True):
            others = [other for place, other in known[label].items() if place != index]
            nearest = max((float(vector @ other) for other in others), default=0.0)
            scores.append(1.0 - nearest)
            keep.append(nearest < self.least)
            if keep[-1]:
                known[label][index] = vector
        return FilterResult(scores, keep)

    def accept(self, batch: FilterBatch) -> None:
        for label, index, vector in zip(batch.labels, batch.indices, self._vectors(batch.images), strict=True):
            self._accepted[label][index] = vector

    @abstractmethod
    def _vectors(self, images: Sequence[Image.Image]) -> Vectors:
        """(N, D) vectors of length 1, whose inner product is the similarity."""


class Duplicate(_Duplicates):
    """See `DuplicateSettings`; two hashes of which b bits differ have the similarity 1 - b / 32."""

    name = "duplicate"

    def __init__(self, settings: DuplicateSettings) -> None:
        self.least = 1 - (settings.bits + 0.5) / 32
        self.begin()

    def _vectors(self, images: Sequence[Image.Image]) -> Vectors:
        return np.stack([difference_hash(image) for image in images]) / 8


class ClipDuplicate(_Duplicates):
    """See `ClipDuplicateSettings`; the similarity is the cosine."""

    name = "clip_duplicate"

    def __init__(self, settings: ClipDuplicateSettings, clip: FrozenClip) -> None:
        self.least, self.clip = settings.similarity, clip
        self.begin()

    def _vectors(self, images: Sequence[Image.Image]) -> Vectors:
        vectors: Vectors = self.clip.features(images).double().cpu().numpy()
        return vectors


def check_scope(names: Sequence[str], shard_size: int, classes: int) -> None:
    """Refuse duplicate filters where a shard has one image of each class only, so that there is nothing to compare.

    Raises:
        UserError: says how large shards must be.
    """
    found = next((name for name in names if name in (Duplicate.name, ClipDuplicate.name)), None)
    if found is not None and shard_size <= classes:
        raise UserError(
            f"filter {found!r} compares images of a class within a shard, but shards of {shard_size} hold no two of "
            f"any of {classes} classes; set synthesis.shard_size, for instance to {8 * classes} for eight of each"
        )


def difference_hash(image: Image.Image) -> npt.NDArray[np.int8]:
    """(64,) of -1 and 1: whether each of 8 x 8 places is brighter than its right neighbour (dHash, N. Krawetz 2013)."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS), np.int16)
    return np.where(small[:, :-1] > small[:, 1:], 1, -1).astype(np.int8).ravel()
