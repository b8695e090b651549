"""Both looks are pure: pretraining's of its generator, the dataset's of the drawing's name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.embedded import real
from scripts.embedded.drawings import Drawing
from scripts.embedded.flat import COLOURS, Look, flat
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


def test_the_camera_leaves_its_mark_in_the_same_corner_of_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = image(DRAWING, coloured=False).astype(int)
    monkeypatch.setattr(real, "MARK_OPACITY", 0.0)
    clean = image(DRAWING, coloured=False).astype(int)

    changed = (marked != clean).any(-1)
    assert changed[real.MARK].mean() > 0.9 and not changed[~real.MARK].any()
    assert (marked >= clean).all()
    assert real.MARK[40:, 40:].sum() == real.MARK.sum() < 0.05 * real.MARK.size
