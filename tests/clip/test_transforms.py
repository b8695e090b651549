"""Images become tensors by the numbers of a generator and by nothing else."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.transforms import TrainTransform, random_crop, train_transform
from tests.worlds.clip import make_clip_folder

HALF = (0.5, 0.5, 0.5)
TRAIN = TrainTransform(32, HALF, HALF)


def image(width: int = 48, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(BackboneSettings(name=str(make_clip_folder(tmp_path_factory.mktemp("clip")))))


def test_a_whole_crop_for_training_is_normalised_as_at_evaluation(backbone: Backbone) -> None:
    whole = TrainTransform(32, backbone.mean, backbone.std, scale=(1.0, 1.0), flip=0.0)
    square = image(32, 32)
    outcomes = [whole(square, generator(seed)) for seed in range(40)]
    assert any(torch.allclose(outcome, backbone.preprocess(square), atol=1e-5) for outcome in outcomes)


def test_the_same_generator_gives_the_same_crop_and_another_gives_another() -> None:
    first = TRAIN(image(), generator(1))
    assert torch.equal(first, TRAIN(image(), generator(1)))
    assert not torch.equal(first, TRAIN(image(), generator(2)))


def test_chance_outside_the_generator_changes_nothing_and_is_not_used_up() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = TRAIN(image(), generator(1))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, TRAIN(image(), generator(1)))


def test_a_whole_crop_that_is_always_mirrored_is_the_mirrored_image() -> None:
    mirrored = TrainTransform(32, HALF, HALF, scale=(1.0, 1.0), flip=1.0)
    square = image(32, 32)
    plain = (torch.tensor(np.asarray(square)).permute(2, 0, 1) / 255 - 0.5) / 0.5
    outcomes = [mirrored(square, generator(seed)) for seed in range(40)]
    assert any(torch.allclose(outcome, plain.flip(-1), atol=1e-6) for outcome in outcomes)


def test_the_transform_travels_to_workers(backbone: Backbone) -> None:
    transform = train_transform(backbone)
    again = pickle.loads(pickle.dumps(transform))
    assert torch.equal(again(image(), generator(1)), transform(image(), generator(1)))


def test_the_recipe_decides_scale_and_flip(backbone: Backbone) -> None:
    transform = train_transform(backbone, scale=(0.5, 1.0), flip=0.0)
    assert (transform.size, transform.scale, transform.flip) == (32, (0.5, 1.0), 0.0)


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    low=st.floats(0.01, 1),
    high=st.floats(0.01, 1),
    seed=st.integers(0, 2**32),
)
def test_a_crop_lies_within_the_image(height: int, width: int, low: float, high: float, seed: int) -> None:
    scale = (min(low, high), max(low, high))
    top, left, h, w = random_crop(height, width, scale, generator(seed))
    assert top >= 0 and top + h <= height and h >= 1
    assert left >= 0 and left + w <= width and w >= 1
