"""Tiny sets whose images tell which sample they are."""

from __future__ import annotations

import io
from collections.abc import Iterable

from PIL import Image

from syncclip import storage
from syncclip.shards.verify import problems
from syncclip.shards.writer import Sample, write_shard

SIZE = 8


def jpeg(index: int) -> bytes:
    """An even image whose colour is (about) a function of `index` alone, up to 4096 of them."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), colour(index)).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def colour(index: int) -> tuple[int, int, int]:
    """The colour of sample `index`, in steps of 16 so that JPEG cannot confuse two."""
    return (index % 16 * 16 + 8, index // 16 % 16 * 16 + 8, index // 256 * 16 + 8)


def index_of(image: Image.Image) -> int:
    """The sample that an image shows."""
    red, green, blue = (value // 16 for value in image.getpixel((SIZE // 2, SIZE // 2)))  # type: ignore[union-attr]
    return red + 16 * green + 256 * blue


def sample(index: int, classes: int) -> Sample:
    """Sample `index` of an index-major set."""
    return Sample(
        index, index % classes, jpeg(index), f"a photo of a class {index % classes}, größe", {"seed": index, "a": None}
    )


def write_set(
    url: str,
    classes: int,
    rounds: int,
    rounds_per_shard: int = 1,
    without: Iterable[int] = (),
    first: int = 0,
    owner: str = storage.NOBODY,
) -> None:
    """`rounds` images of each class, in shards of `rounds_per_shard` rounds, index-major, `without` some samples."""
    missing = set(without)
    for shard, start in enumerate(range(first, rounds, rounds_per_shard), first // rounds_per_shard):
        indices = range(start * classes, min(rounds, start + rounds_per_shard) * classes)
        samples = [sample(index, classes) for index in indices if index not in missing]
        write_shard(url, shard, samples, owner=owner)


def verify(url: str) -> list[str]:
    """What is wrong with a set, one sentence each; [] for a sound one."""
    return [problem.sentence for problem in problems(url)]
