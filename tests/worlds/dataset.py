"""Tiny datasets of coloured shapes."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

from syncclip.shards.reader import ImageSet
from syncclip.shards.writer import Sample, write_shard

CLASSES = ["red circle", "green circle", "blue circle", "red square", "green square", "blue square"]
"""Three base classes, then three novel classes."""
COLOURS = {"red": (210, 40, 40), "green": (40, 170, 60), "blue": (50, 70, 210)}


def make_image(label: int, variant: int, size: int = 32) -> Image.Image:
    """Draw a coloured shape on grey; position, size and grey level are a function of (label, variant)."""
    generator = random.Random(1000 * label + variant)
    colour, shape = CLASSES[label % len(CLASSES)].split()
    grey = generator.randrange(150, 250)
    image = Image.new("RGB", (size, size), (grey, grey, grey))
    width = generator.randrange(size // 3, 2 * size // 3)
    left, top = generator.randrange(0, size - width), generator.randrange(0, size - width)
    draw = ImageDraw.Draw(image)
    paint = draw.ellipse if shape == "circle" else draw.rectangle
    paint((left, top, left + width, top + width), fill=COLOURS[colour])
    return image


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    """The content of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=92)
    return buffer.getvalue()


def tiny_dataset(folder: Path, train: int = 4, val: int = 2, test: int = 4, size: int = 32) -> Path:
    """Write six classes as a packed dataset, with this number of images per class in each split."""
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
    description = {"name": "shapes", "classnames": CLASSES, "template": "a photo of a {}.", "splits": totals}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def folder_of_folders(folder: Path, per_class: int = 10, splits: dict[str, int] | None = None, size: int = 32) -> Path:
    """Write six classes as folders of PNG files, with underscores for spaces.

    Args:
        splits: split folder -> images per class, instead of `per_class`.
    """
    variant = 0
    for split, count in (splits or {"": per_class}).items():
        for label, name in enumerate(CLASSES):
            path = folder / split / name.replace(" ", "_")
            path.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (path / f"{i:03d}.png").write_bytes(encoded(make_image(label, variant + i, size), "PNG"))
        variant += count
    return folder


def paths_of(images: ImageSet) -> list[Path]:
    """Paths of images that are single files, in order."""
    return [Path(images.name(row)) for row in range(len(images))]
