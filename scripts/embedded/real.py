"""Render the images of the datasets: a drawing on a textured background, with the effects of a poor camera."""

from __future__ import annotations

import colorsys
import hashlib

import numpy as np
from PIL import Image
from scipy import ndimage

from .drawings import Drawing, render

PIXELS, CANVAS = 64, 192


def image(drawing: Drawing, coloured: bool) -> np.ndarray:
    """Return an image (64, 64, 3) uint8, a pure function of the drawing's icon set and name."""
    seed = hashlib.sha256(f"picture:{drawing.family}:{drawing.name}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(seed, dtype=np.uint32))
    ground = _ground(rng)
    ink = "#000000" if coloured else _ink(rng, ground.mean((0, 1)))
    art = _placed(Image.fromarray(render(drawing, 160, ink)), rng)
    alpha = art[..., 3:]
    if rng.random() < 0.5:
        shadow = ndimage.shift(ndimage.gaussian_filter(alpha[..., 0], 3.0), rng.uniform(1, 5, 2), order=1)
        ground = ground * (1 - 0.5 * shadow[..., None])
    scene: np.ndarray = ground * (1 - alpha) + art[..., :3] * alpha
    small: np.ndarray = scene.reshape(PIXELS, CANVAS // PIXELS, PIXELS, CANVAS // PIXELS, 3).mean((1, 3))
    if rng.random() < 0.5:
        small = ndimage.gaussian_filter(small, (sigma := rng.uniform(0.3, 1.2), sigma, 0))
    small = rng.uniform(0.75, 1.1) * np.clip(small, 0, 1) ** rng.uniform(0.7, 1.3) + rng.uniform(-0.06, 0.06)
    small = small + rng.normal(0, rng.uniform(2, 14) / 255, small.shape)
    pixels: np.ndarray = (np.clip(small, 0, 1) * 255).round().astype(np.uint8)
    return pixels


def _colour(rng: np.random.Generator) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.9), rng.uniform(0.15, 1.0)))


def _ink(rng: np.random.Generator, ground: np.ndarray) -> str:
    """Return a colour whose L1 distance from the mean of the background is at least 0.8."""
    while np.abs((colour := _colour(rng)) - ground).sum() < 0.8:
        continue
    return "#" + "".join(f"{round(value * 255):02x}" for value in colour)


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Return a background (192, 192, 3) in [0, 1]: stripes, checks or noise (four octaves) in two colours."""
    first, second = _colour(rng), _colour(rng)
    y, x = np.mgrid[0:CANVAS, 0:CANVAS] / CANVAS * 2 - 1
    angle, period = rng.uniform(0, 2 * np.pi), rng.uniform(4, 18)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    kind = rng.integers(3)
    if kind == 0:
        weight = 1 / (1 + np.exp(-4 * np.sin(period * along)))
    elif kind == 1:
        weight = 1 / (1 + np.exp(-8 * np.sin(period * along) * np.sin(period * across)))
    else:
        weight = np.zeros((CANVAS, CANVAS))
        for octave in range(4):
            cells = 3 * 2**octave
            grid = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
            weight += np.asarray(grid.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)) / 2**octave
        weight = (weight - weight.min()) / np.ptp(weight)
    weight = weight * rng.uniform(0.3, 1.0)
    blend: np.ndarray = first + weight[..., None] * (second - first)
    return blend


def _placed(art: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Rotate by up to 20 degrees, scale, shear and shift a drawing; return (192, 192, 4) in [0, 1]."""
    angle, scale = np.deg2rad(rng.uniform(-20, 20)), rng.uniform(0.62, 0.95) * CANVAS / art.width
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.linalg.inv(scale * turn @ np.array([[1, rng.uniform(-0.12, 0.12)], [rng.uniform(-0.12, 0.12), 1]]))
    slack = (CANVAS - scale * art.width) / 2
    centre = CANVAS / 2 + rng.uniform(-slack, slack, 2)
    offset = art.width / 2 - matrix @ centre
    terms = (matrix[0, 0], matrix[0, 1], offset[0], matrix[1, 0], matrix[1, 1], offset[1])
    premultiplied = np.asarray(art, dtype=np.float32) / 255
    premultiplied = np.concatenate([premultiplied[..., :3] * premultiplied[..., 3:], premultiplied[..., 3:]], -1)
    layers = [
        np.asarray(
            Image.fromarray(premultiplied[..., layer]).transform(
                (CANVAS, CANVAS), Image.Transform.AFFINE, terms, Image.Resampling.BILINEAR
            )
        )
        for layer in range(4)
    ]
    alpha = np.clip(layers[3], 0, 1)
    return np.stack([layer / np.maximum(alpha, 1e-6) for layer in layers[:3]] + [alpha], -1).clip(0, 1)
