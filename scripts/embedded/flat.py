"""Pretraining images: a single-colour shape on a plain or softly textured background."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PALETTE = {
    "black": (0.08, 0.08, 0.10),
    "white": (0.97, 0.97, 0.97),
    "gray": (0.55, 0.56, 0.58),
    "red": (0.86, 0.16, 0.16),
    "orange": (0.96, 0.55, 0.12),
    "yellow": (0.98, 0.84, 0.20),
    "green": (0.22, 0.65, 0.30),
    "teal": (0.10, 0.60, 0.62),
    "blue": (0.16, 0.38, 0.85),
    "purple": (0.50, 0.26, 0.72),
    "pink": (0.95, 0.50, 0.68),
    "brown": (0.48, 0.31, 0.20),
}
COLOURS = list(PALETTE)
WHITE = COLOURS.index("white")


@dataclass(frozen=True)
class Look:
    """Variation of the images. `texture` is the fraction of textured backgrounds, `strength` their maximum contrast."""

    texture: float = 0.0
    strength: float = 1.0
    noise: float = 0.0
    jitter: float = 0.08
    rotation: float = 0.12
    white: float = 0.3
    colour: float = 1.0


def flat(alpha: Tensor, look: Look, generator: torch.Generator, flips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colour a batch of shapes.

    Args:
        alpha: (B, S, S) uint8 shapes.
        flips: (B,) bool, whether a shape may be mirrored (no "left" or "right" in its name).

    Returns:
        images (B, 3, S, S) in [0, 1], and the palette indices (B,) of the shapes and of the backgrounds.
    """
    count, size = alpha.shape[0], alpha.shape[-1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    mask = _moved(alpha.unsqueeze(1).float() / 255, look.rotation, flips, uniform, generator)
    palette = torch.tensor(list(PALETTE.values()))
    ground_name = torch.randint(len(COLOURS), (count,), generator=generator)
    ground_name = torch.where(uniform(count) < look.white, torch.full_like(ground_name, WHITE), ground_name)
    distance = (palette[:, None] - palette[None]).abs().sum(-1)
    far = (distance[ground_name] >= 0.9).float()
    ink_name = torch.multinomial(far, 1, generator=generator).squeeze(1)
    jitter = look.jitter * torch.randn(2, count, 3, generator=generator)
    ink, ground = (palette[ink_name] + jitter[0]).clamp(0, 1), (palette[ground_name] + jitter[1]).clamp(0, 1)
    if look.colour < 1:
        plain = uniform(count, 1) >= look.colour
        ink, ground = torch.where(plain, torch.zeros(3), ink), torch.where(plain, torch.ones(3), ground)

    axis = torch.linspace(-1, 1, size)
    angle = 2 * torch.pi * uniform(count, 1, 1)
    ramp = torch.cos(angle) * axis[None, None, :] + torch.sin(angle) * axis[None, :, None]
    ink_map = ink[:, :, None, None] + 0.12 * uniform(count, 1, 1, 1) * ramp[:, None]
    ground_map = ground[:, :, None, None].expand(count, 3, size, size)
    if look.texture > 0:
        other = palette[torch.randint(len(COLOURS), (count,), generator=generator)]
        amount = look.strength * uniform(count, 1, 1, 1) * (uniform(count, 1, 1, 1) < look.texture)
        pattern = amount * _pattern(count, size, axis, uniform)
        ground_map = ground_map + pattern * (other[:, :, None, None] - ground_map)
    image = ground_map + mask * (ink_map - ground_map)
    if look.noise > 0:
        sigma = look.noise * uniform(count, 1, 1, 1)
        image = image + sigma * torch.randn(image.shape, generator=generator)
    return image.clamp(0, 1), ink_name, ground_name


def _moved(
    mask: Tensor, rotation: float, flips: Tensor, uniform: Callable[..., Tensor], generator: torch.Generator
) -> Tensor:
    """Scale (0.67 to 1.18 of the size), rotate, mirror and shift (up to 17 %) each shape."""
    count = mask.shape[0]
    scale = 0.85 + 0.65 * uniform(count)
    angle = rotation * torch.randn(count, generator=generator)
    mirror = torch.where((uniform(count) < 0.5) & flips, -1.0, 1.0)
    shift = 0.34 * (uniform(count, 2) - 0.5)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    theta = torch.stack(
        [torch.stack([cos * mirror, -sin, shift[:, 0]], 1), torch.stack([sin * mirror, cos, shift[:, 1]], 1)], 1
    )
    grid = functional.affine_grid(theta, list(mask.shape), align_corners=False)
    return functional.grid_sample(mask, grid, align_corners=False)


def _pattern(count: int, size: int, axis: Tensor, uniform: Callable[..., Tensor]) -> Tensor:
    """Return patterns (B, 1, S, S) in [0, 1]: stripes, checks or smooth noise, with equal probability."""
    angle, period = 2 * torch.pi * uniform(count, 1, 1), 4 + 14 * uniform(count, 1, 1)
    along = torch.cos(angle) * axis[None, None, :] + torch.sin(angle) * axis[None, :, None]
    across = torch.cos(angle) * axis[None, :, None] - torch.sin(angle) * axis[None, None, :]
    stripes = (torch.sin(period * along) * 4).sigmoid()
    checks = (torch.sin(period * along) * torch.sin(period * across) * 8).sigmoid()
    cells = [functional.interpolate(uniform(count, 1, n, n), size=(size, size), mode="bilinear") for n in (4, 9)]
    noise = (0.65 * cells[0] + 0.35 * cells[1]).squeeze(1)
    kind = uniform(count, 1, 1)
    return torch.where(kind < 1 / 3, stripes, torch.where(kind < 2 / 3, checks, noise)).unsqueeze(1)
