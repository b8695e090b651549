"""Tiny datasets of coloured shapes, in the layouts that the package reads."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

from syncclip.shards.reader import ImageSet
from syncclip.shards.writer import Sample, write_shard

CLASSES = ["red circle", "green circle", "blue circle", "red square", "green square", "blue square"]
"""The first three are base classes, the rest novel."""
COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (50, 70, 210)}


def make_image(label: int, variant: int, size: int = 32) -> Image.Image:
    """A coloured shape on a grey ground; place, size and ground are a function of (label, variant)."""
    generator = random.Random(1000 * label + variant)
    colour, shape = CLASSES[label % len(CLASSES)].split()
    ground = generator.randrange(150, 250)
    image = Image.new("RGB", (size, size), (ground, ground, ground))
    width = generator.randrange(size // 3, 2 * size // 3)
    left, top = generator.randrange(0, size - width), generator.randrange(0, size - width)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "circle" else draw.rectangle)(
        (left, top, left + width, top + width), fill=COLOURS[colour]
    )
    return image


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=92)
    return buffer.getvalue()


def tiny_dataset(folder: Path, train: int = 4, val: int = 2, test: int = 4, size: int = 32) -> Path:
    """Write six classes as a packed dataset: `dataset.json` beside the shard folders train/, val/ and test/.

    Args:
        folder: where to write; made if it is not there.
        train, val, test: images of each class in each split.
        size: of an image's side, pixels.
    """
    counts = {"train": train, "val": val, "test": test}
    variant = 0
    for split, count in counts.items():
        samples = [
            Sample(
                index=i * len(CLASSES) + label,
                label=label,
                image_bytes=encoded(make_image(label, variant + i, size)),
                text=CLASSES[label],
                provenance={"source": "shapes"},
            )
            for i in range(count)
            for label in range(len(CLASSES))
        ]
        write_shard(str(folder / split), 0, samples)
        variant += count
    totals = {split: count * len(CLASSES) for split, count in counts.items()}
    described = {"name": "shapes", "classnames": CLASSES, "template": "a photo of a {}.", "splits": totals}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def folder_of_folders(folder: Path, per_class: int = 10, splits: dict[str, int] | None = None, size: int = 32) -> Path:
    """Write six classes as folders of PNG files, spaces in names as underscores.

    Args:
        folder: where to write; made if it is not there.
        per_class: images of each class, where there are no splits.
        splits: folder name of each split and its images of each class; None for plain class folders.
        size: of an image's side, pixels.
    """
    variant = 0
    for split, count in (splits or {"": per_class}).items():
        for label, name in enumerate(CLASSES):
            place = folder / split / name.replace(" ", "_")
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (place / f"{i:03d}.png").write_bytes(encoded(make_image(label, variant + i, size), "PNG"))
        variant += count
    return folder


def paths_of(images: ImageSet) -> list[Path]:
    """The files of images that are files of their own, in order."""
    return [Path(images.name(row)) for row in range(len(images))]
