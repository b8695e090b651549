"""Blank images: constant or nearly so, such as those that a safety checker blackens."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from syncclip.core.settings import Settings
from syncclip.synthesis.filters.base import Filter, FilterBatch, FilterResult


class BlankSettings(Settings):
    """Rejects constant or nearly constant images, such as a safety checker's black ones."""

    name: Literal["blank"] = "blank"
    """Rejects images of nearly one colour."""
    minimum: float = Field(4.0, ge=0, le=127.5)
    """Least standard deviation of a colour channel, over the pixels, of 255 (the largest of the three counts)."""


class Blank(Filter):
    """See `BlankSettings`; the score is that standard deviation."""

    name = "blank"

    def __init__(self, settings: BlankSettings) -> None:
        self.settings = settings

    def score(self, batch: FilterBatch) -> FilterResult:
        scores = [float(np.asarray(image, np.float64).std(axis=(0, 1)).max()) for image in batch.images]
        return FilterResult(scores, [score >= self.settings.minimum for score in scores])
