"""Small sharded datasets whose images encode their sample index."""

from __future__ import annotations

import io
from collections.abc import Iterable

from PIL import Image

from syncclip import storage
from syncclip.shards.verify import problems
from syncclip.shards.writer import Sample, write_shard

SIZE = 8


def jpeg(index: int) -> bytes:
    """An image of one colour, which encodes an index below 4096 in steps of 16, larger than JPEG's error."""
    buffer = io.BytesIO()
    colour = (index % 16 * 16 + 8, index // 16 % 16 * 16 + 8, index // 256 * 16 + 8)
    Image.new("RGB", (SIZE, SIZE), colour).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def index_of(image: Image.Image) -> int:
    """Decode the sample index from an image."""
    red, green, blue = (value // 16 for value in image.getpixel((SIZE // 2, SIZE // 2)))  # type: ignore[union-attr]
    return red + 16 * green + 256 * blue


def sample(index: int, classes: int) -> Sample:
    """Sample `index` of an index-major dataset."""
    label = index % classes
    return Sample(index, label, jpeg(index), f"a photo of a class {label}, größe", {"seed": index, "a": None})


def write_set(
    url: str,
    classes: int,
    rounds: int,
    rounds_per_shard: int = 1,
    without: Iterable[int] = (),
    first: int = 0,
    owner: str = storage.NOBODY,
) -> None:
    """Write an index-major dataset of `rounds` images per class, from round `first` on, `without` some samples."""
    missing = set(without)
    for shard, start in enumerate(range(first, rounds, rounds_per_shard), first // rounds_per_shard):
        indices = range(start * classes, min(rounds, start + rounds_per_shard) * classes)
        samples = [sample(index, classes) for index in indices if index not in missing]
        write_shard(url, shard, samples, owner=owner)


def verify(url: str) -> list[str]:
    """Messages about all defects of a dataset."""
    return [problem.sentence for problem in problems(url)]
