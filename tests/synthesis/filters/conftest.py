"""Fixtures of the filter tests: a tiny CLIP, noise images, and batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from syncclip.clip.backbone import BackboneSettings
from syncclip.synthesis.filters import FilterBatch, FrozenClip
from tests.worlds.clip import make_clip_folder

PROMPTS = [f"a photo of a {name}." for name in ("cat", "dog", "tree", "house", "ship")]


def noise(seed: int, size: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def batch(
    images: Sequence[Image.Image],
    labels: Sequence[int] | None = None,
    prompts: Sequence[str] | None = None,
    indices: Sequence[int] | None = None,
) -> FilterBatch:
    """A batch, by default of class 0 with its prompt and different indices."""
    labels = labels or [0] * len(images)
    return FilterBatch(images, labels, prompts or [PROMPTS[label] for label in labels], indices or range(len(images)))


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneSettings:
    return BackboneSettings(name=str(make_clip_folder(tmp_path_factory.mktemp("clip"))))


@pytest.fixture(scope="session")
def clip(backbone: BackboneSettings) -> FrozenClip:
    return FrozenClip(backbone, PROMPTS)
