"""Filter for images of almost uniform colour."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from syncclip.core.settings import Settings
from syncclip.synthesis.filters.base import Filter, FilterBatch, FilterResult


class BlankSettings(Settings):
    """Reject images of almost uniform colour, such as the black images returned by a safety checker."""

    name: Literal["blank"] = "blank"
    """Reject images of almost uniform colour."""
    minimum: float = Field(4.0, ge=0, le=127.5)
    """Minimum standard deviation of pixel values (0 to 255) in at least one colour channel."""


class Blank(Filter):
    """Filter configured by `BlankSettings`; the score is the largest standard deviation of a colour channel."""

    name = "blank"

    def __init__(self, settings: BlankSettings) -> None:
        self.settings = settings

    def score(self, batch: FilterBatch) -> FilterResult:
        scores = [float(np.asarray(image, np.float64).std(axis=(0, 1)).max()) for image in batch.images]
        return FilterResult(scores, [score >= self.settings.minimum for score in scores])
