"""Both looks are pure: pretraining's of its generator, the dataset's of the drawing's name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.embedded.drawings import Drawing
from scripts.embedded.flat import COLOURS, Look, flat
from scripts.embedded.near import near
from scripts.embedded.real import image

BODY = '<path fill="currentColor" d="M2 4h12v8H2z"/>'
DRAWING = Drawing("mine", "star", "star", "star", BODY, (0, 0, 16, 16))
RICH = Look(texture=0.8, noise=0.06)


@pytest.fixture
def shapes() -> torch.Tensor:
    shapes = torch.zeros(6, 64, 64, dtype=torch.uint8)
    shapes[:, 20:44, 16:48] = 255
    return shapes


def drawn(shapes: torch.Tensor, seed: int, look: Look = RICH) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return flat(shapes, look, torch.Generator().manual_seed(seed), torch.ones(len(shapes), dtype=torch.bool))


def test_flat_is_a_function_of_its_generator_alone(shapes: torch.Tensor) -> None:
    torch.manual_seed(1)
    first = drawn(shapes, 7)
    torch.manual_seed(2)
    second = drawn(shapes, 7)

    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_flat_images_are_in_range_and_say_which_colours_they_have(shapes: torch.Tensor) -> None:
    images, ink, ground = drawn(shapes, 7)

    assert images.shape == (6, 3, 64, 64)
    assert images.min() >= 0 and images.max() <= 1
    assert (ink != ground).all() and max(ink.max(), ground.max()) < len(COLOURS)


def test_a_image_of_the_dataset_is_a_function_of_set_and_name_alone() -> None:
    np.random.seed(1)
    first = image(DRAWING, coloured=False)
    np.random.seed(2)
    second = image(DRAWING, coloured=False)

    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, second)


def drawn_near(shapes: torch.Tensor, seed: int, camera: bool = False) -> torch.Tensor:
    return near(shapes, torch.Generator().manual_seed(seed), torch.ones(len(shapes), dtype=torch.bool), camera)


@pytest.mark.parametrize("camera", [False, True])
def test_near_is_a_function_of_its_generator_alone(shapes: torch.Tensor, camera: bool) -> None:
    torch.manual_seed(1)
    first = drawn_near(shapes, 7, camera)
    torch.manual_seed(2)
    second = drawn_near(shapes, 7, camera)

    assert torch.equal(first, second) and not torch.equal(first, drawn_near(shapes, 8, camera))
    assert first.shape == (6, 3, 64, 64) and first.min() >= 0 and first.max() <= 1
