"""Hostile bodies: errors within limits of time and memory, after which the decoder decodes the next body."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.serving.decoding import MAX_SCANS, Decoder


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    item = Decoder()
    yield item
    item.close()


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


def with_scans(count: int, side: int = 256) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(noise(side), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - data.count(b"\xff\xda")) + data[-2:]


def form(*files: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    return b"".join(head + data + b"\r\n" for data in files) + b"--x--\r\n"


FORM = "multipart/form-data; boundary=x"


def works(decoder: Decoder) -> bool:
    image = noise(64)
    [decoded] = decoder.images("image/png", encoded(image, "PNG"))
    return decoded.tobytes() == image.tobytes()


def test_a_jpeg_of_many_scans_is_rejected_before_decoding(decoder: Decoder) -> None:
    assert works(decoder)
    process, image = decoder._process, with_scans(MAX_SCANS + 1)
    for content_type, body in (("image/jpeg", image), (FORM, form(*[image] * 4))):
        with pytest.raises(UserError, match=f"a JPEG with more than {MAX_SCANS} scans"):
            list(decoder.images(content_type, body))
    assert works(decoder) and decoder._process is process


def test_progressive_jpegs_and_those_with_a_thumbnail_are_decoded(decoder: Decoder) -> None:
    [image] = decoder.images("", with_scans(10))
    assert image.size == (256, 256)
    assert len(list(decoder.images(FORM, form(*[encoded(noise(32), "JPEG")] * 64)))) == 64


def chunks(count: int) -> bytes:
    data = encoded(noise(8), "PNG")
    return data[:33] + (struct.pack(">I4s", 0, b"teSt") + struct.pack(">I", zlib.crc32(b"teSt"))) * count + data[33:]


def segments(count: int) -> bytes:
    data = encoded(noise(8), "JPEG")
    return data[:2] + b"\xff\xfe\x00\x02" * count + data[2:]


@pytest.mark.slow
def test_decoding_has_a_limit_of_cpu_time(decoder: Decoder) -> None:
    with pytest.raises(UserError, match="decoding exceeded 5 s of CPU time"):
        list(decoder.images(FORM, form(*[with_scans(MAX_SCANS, 1500)] * 16)))
    assert works(decoder)


@pytest.mark.nightly
@pytest.mark.slow
def test_millions_of_empty_parts_are_decoded_or_exceed_the_limit(decoder: Decoder) -> None:
    for body in (chunks(2_000_000), segments(6_000_000)):
        with contextlib.suppress(UserError):  # on a slow machine
            [image] = decoder.images("", body)
            assert image.size == (8, 8)
        assert works(decoder)


def test_a_killed_decoder_is_replaced(decoder: Decoder) -> None:
    os.kill(decoder._process.pid, signal.SIGKILL)
    decoder._process.wait()
    assert works(decoder)
    images = decoder.images(FORM, form(*[encoded(noise(500), "PNG")] * 20))
    next(images)
    decoder._process.kill()
    with pytest.raises(UserError, match="ran out of memory or crashed"):
        list(images)
    assert works(decoder)


def test_an_abandoned_request_does_not_affect_the_next(decoder: Decoder) -> None:
    images = decoder.images(FORM, form(*[encoded(Image.new("RGB", (9, 9)), "PNG")] * 5))
    next(images)
    images.close()  # type: ignore[attr-defined]
    assert works(decoder)


def test_a_decoder_ends_with_the_service() -> None:
    item = Decoder()
    process = item._process
    item._pipe.close()
    assert process.wait(60) == 0
