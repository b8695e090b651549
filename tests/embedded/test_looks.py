"""Both looks are pure: pretraining's of its generator, the dataset's of the drawing's name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.embedded.drawings import Drawing
from scripts.embedded.flat import COLOURS, Look, flat
from scripts.embedded.near import DISTANCE, near
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


def test_flat_leaves_the_global_random_state_and_its_input_alone(shapes: torch.Tensor) -> None:
    state, before = torch.get_rng_state(), shapes.clone()

    drawn(shapes, 7)

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(shapes, before)


def test_another_generator_gives_other_flat_images(shapes: torch.Tensor) -> None:
    assert not torch.equal(drawn(shapes, 7)[0], drawn(shapes, 8)[0])


def test_flat_images_are_in_range_and_say_which_colours_they_have(shapes: torch.Tensor) -> None:
    images, ink, ground = drawn(shapes, 7)

    assert images.shape == (6, 3, 64, 64)
    assert images.min() >= 0 and images.max() <= 1
    assert (ink != ground).all() and max(ink.max(), ground.max()) < len(COLOURS)


def test_without_colour_flat_is_black_on_white(shapes: torch.Tensor) -> None:
    images, _, _ = drawn(shapes, 7, Look(colour=0.0))

    assert images[:, :, 0, 0].min() > 0.99
    assert images.min() < 0.13


def test_a_image_of_the_dataset_is_a_function_of_set_and_name_alone() -> None:
    np.random.seed(1)
    first = image(DRAWING, coloured=False)
    np.random.seed(2)
    second = image(DRAWING, coloured=False)

    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, second)


def test_another_name_is_seen_on_another_ground() -> None:
    other = Drawing("mine", "stars", "star", "star", BODY, (0, 0, 16, 16))

    assert not np.array_equal(image(DRAWING, coloured=False), image(other, coloured=False))


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


def test_near_images_have_one_colour_that_stands_out_from_the_background() -> None:
    shapes = torch.zeros(20, 64, 64, dtype=torch.uint8)
    full = torch.full_like(shapes, 255)
    ground, ink = drawn_near(shapes, 7), drawn_near(full, 7)[:, :, 32, 32]

    assert ((ground.mean((2, 3)) - ink).abs().sum(1) >= DISTANCE).all()


def test_a_camera_adds_noise() -> None:
    flat_image = torch.zeros(20, 64, 64, dtype=torch.uint8)
    rough = [drawn_near(flat_image, 7, camera).diff(dim=2).diff(dim=2).abs().median() for camera in (False, True)]

    assert rough[1] > 2 * rough[0]
