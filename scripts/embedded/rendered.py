"""Synthetic datasets that simulate a nearly perfect generator: pretraining drawings in the style of the datasets.

`python -m scripts.embedded.rendered WORK OUT` writes tars to OUT/<dataset>, which `syncclip shards import` reads.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from syncclip.shards.writer import Sample, write_shard

from .drawings import CONCEPTS
from .masks import Masks, load_masks
from .near import near

IMAGES = 64
"""Number of images per class."""


def write_rendered(masks: Masks, out: Path) -> None:
    """Write image k of every class before image k + 1 of any class, as `synth` does."""
    for dataset, classnames in CONCEPTS["datasets"].items():
        images = [_images(masks, masks.concepts.index(name)) for name in classnames]
        samples = [
            Sample(k * len(classnames) + label, label, images[label][k], f"a drawing of a {name}")
            for k in range(IMAGES)
            for label, name in enumerate(classnames)
        ]
        write_shard(str(out / dataset), 0, samples)


def _images(masks: Masks, concept: int) -> list[bytes]:
    """Return the images of a class, using every drawing once before repeating any."""
    rng = np.random.default_rng((11, concept))
    rows = np.flatnonzero(masks.concept == concept)
    order = np.concatenate([rng.permutation(rows) for _ in range(-(-IMAGES // len(rows)))])[:IMAGES]
    generator = torch.Generator().manual_seed(concept)
    images = near(torch.from_numpy(masks.alpha[order]), generator, torch.ones(IMAGES, dtype=torch.bool))
    return [_jpeg(image) for image in (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()]


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=88, optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    write_rendered(load_masks(Path(sys.argv[1]) / "masks.npz"), Path(sys.argv[2]))
