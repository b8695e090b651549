"""Batched rendering of pretraining shapes in the style of the datasets: backgrounds, colours and placement.

Unlike in `real.py`, where an image is a pure function of the drawing, images are randomised on every call and have no
camera effects (shear, blur, gamma, noise) by default.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

DISTANCE = 0.8
"""Minimum L1 distance of a drawing's colour from the mean of its background."""


class Uniform:
    """Uniform random numbers from a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.generator)


def near(alpha: Tensor, generator: torch.Generator, flips: Tensor, camera: bool = False) -> Tensor:
    """Draw a batch of shapes, each in one colour, on textured backgrounds.

    Args:
        alpha: (B, S, S) uint8 shapes.
        flips: (B,) bool, whether a shape may be mirrored.
        camera: whether to add shear, blur, gamma and noise.

    Returns:
        images (B, 3, S, S) in [0, 1].
    """
    uniform = Uniform(generator)
    mask = _placed(alpha.unsqueeze(1).float() / 255, flips, 0.12 if camera else 0.0, uniform)
    ground = _ground(len(alpha), alpha.shape[-1], uniform)
    mean = ground.mean((2, 3))
    ink = _colours(len(alpha), uniform)
    while (close := (ink - mean).abs().sum(1) < DISTANCE).any():
        ink = torch.where(close[:, None], _colours(len(alpha), uniform), ink)
    images = ground + mask * (ink[:, :, None, None] - ground)
    return (_photographed(images, uniform) if camera else images).clamp(0, 1)


def _colours(count: int, uniform: Uniform) -> Tensor:
    """Return RGB colours (B, 3) with random hue, saturation below 0.9 and value above 0.15."""
    hue, saturation, value = uniform(0, 6, count), uniform(0, 0.9, count), uniform(0.15, 1, count)
    turns = (torch.tensor([5.0, 3.0, 1.0]) + hue[:, None]) % 6
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(turns, 4 - turns).clamp(0, 1))


def _placed(mask: Tensor, flips: Tensor, shear: float, uniform: Uniform) -> Tensor:
    """Rotate shapes by up to 20 degrees, scale them to 62 to 95 % of the image side, mirror half, and shift them."""
    count = len(mask)
    angle, stretch = uniform(-math.pi / 9, math.pi / 9, count), 1 / uniform(0.62, 0.95, count)
    cos, sin, skew = stretch * torch.cos(angle), stretch * torch.sin(angle), uniform(-shear, shear, count, 2)
    mirror = torch.where((uniform(0, 1, count) < 0.5) & flips, -1.0, 1.0)
    shift = uniform(-1, 1, count, 2) * (stretch - 1)[:, None]
    theta = torch.stack(
        [
            torch.stack([cos * mirror, skew[:, 0] - sin, shift[:, 0]], 1),
            torch.stack([sin * mirror + skew[:, 1], cos, shift[:, 1]], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, list(mask.shape), align_corners=False)
    return functional.grid_sample(mask, grid, align_corners=False)


def _ground(count: int, size: int, uniform: Uniform) -> Tensor:
    """Return backgrounds (B, 3, S, S): stripes, checks or noise in two colours, with equal probability."""
    axis = torch.linspace(-1, 1, size)
    angle, period = uniform(0, 2 * math.pi, count, 1, 1), uniform(4, 18, count, 1, 1)
    along = torch.cos(angle) * axis + torch.sin(angle) * axis[:, None]
    across = torch.cos(angle) * axis[:, None] - torch.sin(angle) * axis
    stripes = (4 * torch.sin(period * along)).sigmoid()
    checks = (8 * torch.sin(period * along) * torch.sin(period * across)).sigmoid()
    noise = torch.zeros(count, size, size)
    for octave in range(4):
        cells = uniform(0, 1, count, 1, 3 * 2**octave, 3 * 2**octave)
        noise += functional.interpolate(cells, size=(size, size), mode="bicubic")[:, 0] / 2**octave
    low, high = noise.amin((1, 2), keepdim=True), noise.amax((1, 2), keepdim=True)
    kind = uniform(0, 3, count, 1, 1)
    weight = torch.where(kind < 1, stripes, torch.where(kind < 2, checks, (noise - low) / (high - low)))
    first, second = _colours(count, uniform), _colours(count, uniform)
    weight = weight * uniform(0.3, 1, count, 1, 1)
    return first[:, :, None, None] + weight[:, None] * (second - first)[:, :, None, None]


def _photographed(images: Tensor, uniform: Uniform) -> Tensor:
    """Blur half of the images; vary gain, gamma and offset of all images, and add noise."""
    count = len(images)
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = uniform(0, 1, count, 1, 1, 1) * (uniform(0, 1, count, 1, 1, 1) < 0.5)
    images = images + amount * (blurred - images)
    gain, gamma = uniform(0.75, 1.1, count, 1, 1, 1), uniform(0.7, 1.3, count, 1, 1, 1)
    images = gain * images.clamp(0, 1) ** gamma + uniform(-0.06, 0.06, count, 1, 1, 1)
    sigma = uniform(2, 14, count, 1, 1, 1) / 255
    return images + sigma * torch.randn(images.shape, generator=uniform.generator)
