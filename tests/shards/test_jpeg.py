"""How a JPEG is decoded; what comes of it is shown with the other images."""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import platform
import random

import pytest
from PIL import Image

from syncclip.shards import images as decoding
from syncclip.shards.images import decode_image
from tests.shards.sets import jpeg

WIDTHS = (100, 224, 256)
in_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library gives memory out otherwise")


def offset(size: int) -> int:
    """Of the block that whoever asks next is given, from the multiple of 32 before it."""
    return ctypes.addressof(ctypes.c_char.from_buffer(bytearray(size - 1))) % 32


def begins(width: int) -> list[int]:
    """Where the line would begin, in each of 200 images' decoding amid other memory of the same size.

    For a process of its own: in one where many tests left holes of that size, it may be looked for in vain.
    """
    found: list[int] = []
    decoded = decoding.as_rgb

    def as_rgb(image: Image.Image) -> Image.Image:
        found.append(offset(4 * width))
        return decoded(image)

    decoding.as_rgb = as_rgb
    file = io.BytesIO()
    Image.open(io.BytesIO(jpeg(1))).resize((width, width)).save(file, "JPEG")
    chance, kept = random.Random(0), []
    for _ in range(200):
        kept.append([bytearray(4 * width - 1) for _ in range(chance.randrange(5))])  # memory that is used otherwise
        chance.shuffle(kept)
        del kept[8:]
        decode_image(file.getvalue(), "x")
    return found


@in_glibc
def test_a_decoders_line_hardly_ever_begins_at_a_multiple_of_32() -> None:
    for width in WIDTHS:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            found = process.apply(begins, (width,))
        assert len(found) == 200
        assert found.count(16) > 180, width  # now and then something else is of just that size
