"""Decoding, and what cannot be decoded."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import syncclip
from syncclip.core.settings import UserError
from syncclip.shards.images import Corruption, DecodedImages, UnreadableImageError, decode_image, thumbnails
from tests.shards.sets import jpeg


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (4, 3)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGB"), ("JPEG", "CMYK")]
)
def test_every_mode_becomes_rgb(kind: str, mode: str) -> None:
    image = decode_image(encoded(kind, mode), "x")
    assert (image.mode, image.size) == ("RGB", (4, 3))


@pytest.mark.fault
@pytest.mark.parametrize(
    "data",
    [b"", b"no image", jpeg(1)[:100], jpeg(1)[:-20], encoded("PNG")[:-25], encoded("GIF")[:20], encoded("PPM")],
    ids=["empty", "text", "cut header", "cut data", "cut png", "cut gif", "ppm"],
)
def test_what_is_no_whole_image_of_a_known_kind_is_named(data: bytes) -> None:
    with pytest.raises(UnreadableImageError, match=r"^photo.jpg: unreadable image: ") as caught:
        decode_image(data, "photo.jpg")
    assert isinstance(caught.value, UserError)


@pytest.mark.fault
def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(UnreadableImageError, match="x: 9000 x 9000 pixels are more than 50000000"):
        decode_image(bomb, "x")


def test_as_many_pixels_as_the_limit_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.shards.images.MAX_PIXELS", 64)
    assert decode_image(jpeg(1), "x").size == (8, 8)
    monkeypatch.setattr("syncclip.shards.images.MAX_PIXELS", 63)
    with pytest.raises(UnreadableImageError, match="more than 63"):
        decode_image(jpeg(1), "x")


def test_the_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImageError("x", "why")))
    assert (error.name, str(error)) == ("x", "x: why")


def test_a_damaged_thing_counts_once_and_beyond_the_limit_is_an_error(logged: list[str]) -> None:
    corruption = Corruption(limit=3)
    for _ in range(5):
        corruption.skip("a.jpg", "cut off")
    corruption.skip("00001.parquet", "no table", images=2)
    assert corruption.images == 3
    assert len(logged) == 2
    assert logged[0] == "skipped a.jpg (1 image(s), 1 in all): cut off"
    with pytest.raises(UserError, match="4 unreadable images, more than the limit of 3"):
        corruption.skip("b.jpg", "b.jpg: cut off")


def test_accounts_that_are_put_together_count_a_thing_once_and_keep_the_limit() -> None:
    here, there = Corruption(limit=3), Corruption(limit=None)
    here.skip("a.jpg", "cut off")
    there.skip("a.jpg", "cut off")
    there.skip("b.tar", "torn", images=2)
    here.include(there.account())
    here.include(there.account())
    assert here.names == {"a.jpg": 1, "b.tar": 2}
    there.skip("c.jpg", "no image")
    with pytest.raises(UserError, match="4 unreadable images, more than the limit of 3; the last: no image"):
        here.include(there.account())


def test_decoded_images_stay_within_their_bytes_and_the_last_used_stay() -> None:
    decoded, made = DecodedImages(limit=2 * 3 * 64), []

    def get(key: int) -> None:
        decoded.get((0, key), lambda: made.append(key) or Image.new("RGB", (8, 8)))

    for key in (1, 2, 1, 3, 1, 2):
        get(key)
    assert made == [1, 2, 3, 2]


def lying(says: tuple[int, int], shows: tuple[int, int] = (64, 64), **how: object) -> bytes:
    """A JPEG of one size (height, width) whose header says another."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*shows, 3), dtype=np.uint8)
    noise[shows[0] // 2 :, shows[1] // 2 :] = 255  # an even last corner, as photographs on white have it
    Image.fromarray(noise).save(buffer, "JPEG", **how)
    data = bytearray(buffer.getvalue())
    place = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    data[place : place + 4] = says[0].to_bytes(2, "big") + says[1].to_bytes(2, "big")
    return bytes(data)


def test_thumbnails_are_the_middle_squares_of_images() -> None:
    pixels = np.zeros((40, 120, 3), dtype=np.uint8)
    pixels[:, 40:80] = 200
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    (thumbnail,) = thumbnails([buffer.getvalue()], 20)
    assert thumbnail is not None and thumbnail.size == (20, 20)
    assert np.asarray(thumbnail).min() > 180, "the black sides are cut off"


@pytest.mark.fault
def test_what_cannot_be_decoded_has_no_thumbnail() -> None:
    found = thumbnails([jpeg(3), b"", b"no image", jpeg(3)[:200], lying((9000, 9000))], 16)
    assert [one is not None for one in found] == [True, False, False, False, False]


def test_a_line_of_pixels_is_refused_which_a_clip_would_resize_to_gigabytes() -> None:
    for height, width in ((1, 500), (500, 1)):
        assert decode_image(encoded("PNG", size=(width, height)), "x").size == (width, height)
    for height, width in ((1, 501), (2000, 2)):
        with pytest.raises(UnreadableImageError, match=f"x: {width} x {height} pixels: aspect ratio above 500"):
            decode_image(encoded("PNG", size=(width, height)), "x")


WHITE, GREY, RED = (255, 255, 255), (128, 128, 128), (255, 0, 0)


def saved(image: Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def pixels_of(data: bytes) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(decode_image(data, "x")).reshape(-1, 3).tolist()]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_a_16_bit_grey_keeps_its_highest_8_bits(kind: str, order: str) -> None:
    values = np.array([[0, 255, 256, 0x7FFF, 0x8000, 0xFFFF]], order)
    data = saved(Image.fromarray(values), kind)
    assert [pixel[0] for pixel in pixels_of(data)] == [0, 0, 1, 127, 128, 255]


def test_greys_of_12_bits_and_of_white_zero_are_as_a_viewer_shows_them() -> None:
    values = np.array([[0, 0x8000, 0xFFFF]], np.uint16)
    assert [pixel[0] for pixel in pixels_of(saved(Image.fromarray(values), "TIFF", tiffinfo={262: 0}))] == [255, 127, 0]
    transparent = saved(Image.fromarray(values), "PNG", transparency=0x8000)
    assert [pixel[0] for pixel in pixels_of(transparent)] == [0, 255, 255]
    # Two pixels of 12 bits, 0x000 and 0xFFF, as a TIFF by hand: Pillow writes none.
    entries = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    entries += [(277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 3)]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    assert pixels_of(b"II*\0" + struct.pack("<I", 12) + b"\x00\x0f\xff\0" + table) == [(0, 0, 0), WHITE]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_of_32_bits_have_no_white_and_are_refused(mode: str) -> None:
    with pytest.raises(UnreadableImageError, match="x: unreadable image: its pixels are 32-bit"):
        decode_image(encoded("TIFF", mode), "x")


QUARTERS = np.zeros((32, 48, 3), np.uint8)
QUARTERS[:16, :16], QUARTERS[:16, 16:32] = WHITE, RED
TURNS = {
    1: QUARTERS,
    2: QUARTERS[:, ::-1],
    3: QUARTERS[::-1, ::-1],
    4: QUARTERS[::-1],
    5: QUARTERS.transpose(1, 0, 2),
    6: np.rot90(QUARTERS, -1),
    7: QUARTERS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(QUARTERS, 1),
}
"""By EXIF's orientation: the stored row 0 is the top, the top mirrored, the bottom, … of what is seen (CIPA DC-008)."""


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = saved(Image.fromarray(QUARTERS), kind, exif=exif, **how)
    found = np.asarray(decode_image(data, "x")).astype(int)
    assert found.shape == TURNS[orientation].shape
    assert np.abs(found - TURNS[orientation]).max() <= 3
    (thumbnail,) = thumbnails([data], 16)
    upright = saved(Image.fromarray(np.ascontiguousarray(TURNS[orientation])), "PNG")
    (expected,) = thumbnails([upright], 16)
    assert np.abs(np.asarray(thumbnail).astype(int) - np.asarray(expected)).mean() <= 3


@pytest.mark.parametrize("exif", [b"Exif\0\0no tiff", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(100)])
def test_damaged_exif_data_is_ignored(exif: bytes) -> None:
    plain = Image.fromarray(QUARTERS)
    assert pixels_of(saved(plain, "JPEG", exif=exif)) == pixels_of(saved(plain, "JPEG"))


def test_transparent_pixels_are_on_white() -> None:
    half = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    half.putpixel((1, 0), (0, 0, 0, 127))
    half.putpixel((2, 0), (*RED, 255))
    for kind, how in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        assert pixels_of(saved(half, kind, **how)) == [WHITE, GREY, RED]
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, *RED])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        assert pixels_of(saved(palette, kind, transparency=0)) == [WHITE, RED]
    for mode, black in (("L", 0), ("RGB", (0, 0, 0)), ("1", 0)):
        assert pixels_of(saved(Image.new(mode, (1, 1)), "PNG", transparency=black)) == [WHITE]
    assert pixels_of(encoded("PNG", "LA", (1, 1))) == [WHITE]


def test_of_several_frames_or_pages_the_first_is_read() -> None:
    first, second = Image.new("RGB", (2, 1), RED), Image.new("RGB", (2, 1), WHITE)
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        how = {"lossless": True} if kind == "WEBP" else {}
        assert pixels_of(saved(first, kind, save_all=True, append_images=[second], **how)) == [RED, RED]


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PNG", "WEBP"])
def test_pixels_of_other_formats_are_those_that_were_saved(kind: str) -> None:
    how = {"lossless": True} if kind == "WEBP" else {}
    assert (np.asarray(decode_image(saved(Image.fromarray(QUARTERS), kind, **how), "x")) == QUARTERS).all()


def test_images_are_opened_nowhere_else() -> None:
    package = Path(syncclip.__file__).parent
    opened = [path for path in package.rglob("*.py") if "Image.open(" in path.read_text()]
    assert opened == [package / "shards" / "images.py"]
