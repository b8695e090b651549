"""Rendering styles are deterministic: pretraining's given a generator, the dataset's given the drawing's name."""

from __future__ import annotations

from collections.abc import Callable

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
RECOLOURED = torch.ones(6, dtype=torch.bool)


@pytest.fixture
def shapes() -> torch.Tensor:
    shapes = torch.zeros(6, 64, 64, dtype=torch.uint8)
    shapes[:, 20:44, 16:48] = 255
    return shapes


Render = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
STYLES: dict[str, Render] = {
    "flat": lambda shapes, generator: flat(shapes, RICH, generator, RECOLOURED)[0],
    "near": lambda shapes, generator: near(shapes, generator, RECOLOURED, False),
    "near, camera": lambda shapes, generator: near(shapes, generator, RECOLOURED, True),
}


@pytest.mark.parametrize("render", STYLES.values(), ids=STYLES)
def test_pretraining_images_depend_on_their_generator_alone(shapes: torch.Tensor, render: Render) -> None:
    outputs = []
    for global_seed, seed in ((1, 7), (2, 7), (2, 8)):
        torch.manual_seed(global_seed)
        outputs.append(render(shapes, torch.Generator().manual_seed(seed)))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    assert outputs[0].shape == (6, 3, 64, 64) and outputs[0].min() >= 0 and outputs[0].max() <= 1


def test_flat_images_have_two_different_colours(shapes: torch.Tensor) -> None:
    _, ink, ground = flat(shapes, RICH, torch.Generator().manual_seed(7), RECOLOURED)
    assert (ink != ground).all() and max(ink.max(), ground.max()) < len(COLOURS)


def test_a_dataset_image_depends_on_its_drawing_alone() -> None:
    np.random.seed(1)
    first = image(DRAWING, coloured=False)
    np.random.seed(2)
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, image(DRAWING, coloured=False))
