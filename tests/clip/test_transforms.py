"""The training transform is deterministic given an image and a generator."""

from __future__ import annotations

import pickle

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from syncclip.clip.backbone import Backbone
from syncclip.clip.transforms import TrainTransform, random_crop, train_transform

HALF = (0.5, 0.5, 0.5)
TRAIN = TrainTransform(32, HALF, HALF)


def image(width: int = 48, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matches_any(transform: TrainTransform, expected: torch.Tensor, atol: float) -> bool:
    """Whether some seed gives the expected tensor: a square crop of the full area has an aspect of nearly 1."""
    outputs = (transform(image(32, 32), generator(seed)) for seed in range(40))
    return any(torch.allclose(output, expected, atol=atol) for output in outputs)


def test_a_full_crop_equals_the_evaluation_preprocessing(backbone: Backbone) -> None:
    transform = TrainTransform(32, backbone.mean, backbone.std, scale=(1.0, 1.0), flip=0.0)
    assert matches_any(transform, backbone.preprocess(image(32, 32)), atol=1e-5)


def test_a_flipped_full_crop_is_the_mirrored_image() -> None:
    pixels = (torch.tensor(np.asarray(image(32, 32))).permute(2, 0, 1) / 255 - 0.5) / 0.5
    transform = TrainTransform(32, HALF, HALF, scale=(1.0, 1.0), flip=1.0)
    assert matches_any(transform, pixels.flip(-1), atol=1e-6)


def test_the_transform_depends_on_its_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = TRAIN(image(), generator(1))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, TRAIN(image(), generator(1)))
    assert not torch.equal(first, TRAIN(image(), generator(2)))


def test_the_transform_can_be_pickled(backbone: Backbone) -> None:
    transform = train_transform(backbone, scale=(0.5, 1.0), flip=0.0)
    assert (transform.size, transform.scale, transform.flip) == (32, (0.5, 1.0), 0.0)
    restored = pickle.loads(pickle.dumps(transform))
    assert torch.equal(restored(image(), generator(1)), transform(image(), generator(1)))


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    low=st.floats(0.01, 1),
    high=st.floats(0.01, 1),
    seed=st.integers(0, 2**32),
)
def test_a_crop_is_inside_the_image(height: int, width: int, low: float, high: float, seed: int) -> None:
    scale = (min(low, high), max(low, high))
    top, left, h, w = random_crop(height, width, scale, generator(seed))
    assert top >= 0 and top + h <= height and h >= 1
    assert left >= 0 and left + w <= width and w >= 1
