"""Training transform with random crop and flip; deterministic given the image and the random generator's state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, ToTensor
from torchvision.transforms.v2 import functional as F

from syncclip.clip.backbone import Backbone

Triple = tuple[float, float, float]
ASPECT = (3 / 4, 4 / 3)
ATTEMPTS = 10


@dataclass(frozen=True)
class TrainTransform:
    """Random crop resized to `size`, random horizontal flip, and normalisation.

    Args:
        scale: minimum and maximum crop area, as fractions of the image area.
        flip: probability of a flip.
    """

    size: int
    mean: Triple
    std: Triple
    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5

    def __call__(self, image: Image.Image, generator: torch.Generator) -> Tensor:
        """Return a float32 tensor (3, size, size)."""
        image = image.convert("RGB")
        top, left, height, width = random_crop(image.height, image.width, self.scale, generator)
        size = [self.size, self.size]
        image = F.resized_crop(image, top, left, height, width, size, InterpolationMode.BICUBIC)
        if _uniform(0, 1, generator) < self.flip:
            image = F.horizontal_flip(image)
        pixels = F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)
        normalised: Tensor = F.normalize(pixels, list(self.mean), list(self.std))
        return normalised


def train_transform(backbone: Backbone, scale: tuple[float, float] = (0.08, 1.0), flip: float = 0.5) -> TrainTransform:
    return TrainTransform(backbone.image_size, backbone.mean, backbone.std, scale, flip)


def cut(image: Image.Image, preprocess: Callable[[Image.Image], Tensor]) -> Image.Image:
    """Apply only the resize and crop of `preprocess`, which maps the result and the original to the same tensor."""
    result = image
    for step in getattr(preprocess, "transforms", ()):
        if isinstance(step, ToTensor):
            return result
        result = step(result)
    return image


def random_crop(
    height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Sample a crop with uniform area and log-uniform aspect ratio, like torchvision's `RandomResizedCrop`, and return
    (top, left, height, width); if no attempt fits the image, return the largest central crop."""
    for _ in range(ATTEMPTS):
        area = height * width * _uniform(*scale, generator)
        aspect = math.exp(_uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), generator))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (), generator=generator))
            left = int(torch.randint(0, width - w + 1, (), generator=generator))
            return top, left, h, w
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))
