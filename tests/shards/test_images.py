"""Image decoding and accounting of undecodable images."""

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
from syncclip.shards.images import (
    ORIENTATION,
    Corruption,
    DecodedImages,
    SkippedFiles,
    UnreadableImageError,
    decode_image,
    thumbnails,
    to_rgb,
)
from tests.shards.sets import jpeg

WHITE, GREY, RED = (255, 255, 255), (128, 128, 128), (255, 0, 0)


def encode(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def blank(format_: str, mode: str = "RGB", size: tuple[int, int] = (4, 3)) -> bytes:
    return encode(Image.new(mode, size), format_)


def lossless(format_: str) -> dict[str, object]:
    return {"lossless": True} if format_ == "WEBP" else {}


def pixels_of(data: bytes) -> list[tuple[int, ...]]:
    return [tuple(pixel) for pixel in np.asarray(decode_image(data, "x")).reshape(-1, 3).tolist()]


@pytest.mark.parametrize(
    ("format_", "mode"), [("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGB"), ("JPEG", "CMYK")]
)
def test_every_mode_is_converted_to_rgb(format_: str, mode: str) -> None:
    image = decode_image(blank(format_, mode), "x")
    assert (image.mode, image.size) == ("RGB", (4, 3))


@pytest.mark.fault
@pytest.mark.parametrize(
    "data",
    [b"", b"no image", jpeg(1)[:100], jpeg(1)[:-20], blank("PNG")[:-25], blank("GIF")[:20], blank("PPM")],
    ids=["empty", "text", "truncated header", "truncated data", "truncated png", "truncated gif", "ppm"],
)
def test_an_undecodable_file_is_reported_by_name(data: bytes) -> None:
    with pytest.raises(UnreadableImageError, match=r"^photo.jpg: unreadable image: "):
        decode_image(data, "photo.jpg")


@pytest.mark.fault
def test_a_decompression_bomb_is_refused_from_its_header() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(UnreadableImageError, match="x: 9000 x 9000 pixels exceed the limit of 50,000,000"):
        decode_image(bomb, "x")
    assert thumbnails([bomb], 16) == [None]


def test_the_maximum_number_of_pixels_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.shards.images.MAX_PIXELS", 64)
    assert decode_image(jpeg(1), "x").size == (8, 8)
    monkeypatch.setattr("syncclip.shards.images.MAX_PIXELS", 63)
    with pytest.raises(UnreadableImageError, match="limit of 63"):
        decode_image(jpeg(1), "x")


@pytest.mark.parametrize("size", [(500, 1), (1, 500)])
def test_the_aspect_ratio_is_limited(size: tuple[int, int]) -> None:
    assert decode_image(blank("PNG", size=size), "x").size == size
    size = size[0] + (size[0] > 1), size[1] + (size[1] > 1)
    with pytest.raises(UnreadableImageError, match=f"x: the aspect ratio of {size[0]} x {size[1]} pixels exceeds"):
        decode_image(blank("PNG", size=size), "x")


def test_the_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImageError("x", "why")))
    assert (error.name, str(error)) == ("x", "x: why")


def test_a_corrupt_file_is_counted_once_and_the_limit_raises(logged: list[str]) -> None:
    corruption = Corruption(limit=3)
    for _ in range(5):
        corruption.skip("a.jpg", "truncated")
    corruption.skip("00001.parquet", "no table", images=2)
    assert corruption.images == 3
    assert len(logged) == 2
    assert logged[0] == "skipped a.jpg (1 image(s), 1 in total): truncated"
    with pytest.raises(UserError, match="4 unreadable images, more than the limit of 3"):
        corruption.skip("b.jpg", "b.jpg: truncated")


def test_merged_accounts_count_a_file_once_and_respect_the_limit() -> None:
    first, second = Corruption(limit=3), Corruption(limit=None)
    for corruption in (first, second):
        corruption.skip("a.jpg", "truncated")
    second.skip("b.tar", "truncated", images=2)
    for _ in range(2):
        first.include(second.account())
    assert first.names == {"a.jpg": 1, "b.tar": 2}
    second.skip("c.jpg", "no image")
    with pytest.raises(UserError, match=r"4 unreadable images, more than the limit of 3 .*; last image: no image"):
        first.include(second.account())


def test_skipped_files_are_summarised_by_reason_with_three_names() -> None:
    skipped = SkippedFiles()
    assert not skipped
    skipped.add("link", "/data/cat/link")
    assert skipped and str(skipped) == "skipped 1 file: 1 link (cat/link)"
    for number in range(1200):
        skipped.add(".heic", f"/data/cat/{number}.heic")
    assert str(skipped) == (
        "skipped 1,201 files: 1,200 .heic (cat/0.heic, cat/1.heic, cat/2.heic, …), 1 link (cat/link); "
        "images must be JPEG, PNG, WebP, GIF, BMP or TIFF"
    )
    assert len(skipped.names[".heic"]) == 4, "names of further files take no memory"


def test_the_cache_of_decoded_images_evicts_the_least_recently_used_beyond_its_limit() -> None:
    cache, decoded = DecodedImages(limit=2 * 3 * 64), []
    for key in (1, 2, 1, 3, 1, 2):
        cache.get((0, key), lambda key=key: decoded.append(key) or Image.new("RGB", (8, 8)))
    assert decoded == [1, 2, 3, 2]


def test_thumbnails_are_centre_crops() -> None:
    pixels = np.zeros((40, 120, 3), dtype=np.uint8)
    pixels[:, 40:80] = 200
    (thumbnail,) = thumbnails([encode(Image.fromarray(pixels), "PNG")], 20)
    assert thumbnail is not None and thumbnail.size == (20, 20)
    assert np.asarray(thumbnail).min() > 180, "the black sides are cropped"


@pytest.mark.fault
def test_undecodable_files_have_no_thumbnail() -> None:
    crops = thumbnails([jpeg(3), b"", b"no image", jpeg(3)[:200]], 16)
    assert [crop is not None for crop in crops] == [True, False, False, False]


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bit_greys_are_reduced_to_their_highest_8_bits(format_: str, order: str) -> None:
    values = np.array([[0, 255, 256, 0x7FFF, 0x8000, 0xFFFF]], order)
    data = encode(Image.fromarray(values), format_)
    assert [pixel[0] for pixel in pixels_of(data)] == [0, 0, 1, 127, 128, 255]


def test_12_bit_and_white_is_zero_greys_are_converted() -> None:
    image = Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16))
    assert [pixel[0] for pixel in pixels_of(encode(image, "TIFF", tiffinfo={262: 0}))] == [255, 127, 0]
    assert [pixel[0] for pixel in pixels_of(encode(image, "PNG", transparency=0x8000))] == [0, 255, 255]
    # a TIFF of two 12-bit pixels, 0x000 and 0xFFF, which Pillow can't write
    entries = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    entries += [(277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 3)]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    assert pixels_of(b"II*\0" + struct.pack("<I", 12) + b"\x00\x0f\xff\0" + table) == [(0, 0, 0), WHITE]


def png_of(colour_type: int, values: list[int]) -> bytes:
    """A PNG of one pixel with 16 bits per channel, which Pillow can't write for colours."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 1, 1, 16, colour_type, 0, 0, 0)}
    chunks |= {b"IDAT": zlib.compress(b"\0" + np.array(values, ">u2").tobytes()), b"IEND": b""}
    parts = [struct.pack(">I", len(data)) + kind + data for kind, data in chunks.items()]
    return b"\x89PNG\r\n\x1a\n" + b"".join(part + struct.pack(">I", zlib.crc32(part[4:])) for part in parts)


def test_16_bit_colours_are_reduced_to_their_highest_8_bits() -> None:
    assert pixels_of(png_of(2, [0x00FF, 0x8000, 0xFFFF])) == [(0, 128, 255)]
    assert pixels_of(png_of(6, [0x00FF, 0x8000, 0xFFFF, 0xFFFF])) == [(0, 128, 255)]
    assert pixels_of(png_of(6, [0, 0, 0, 0])) == pixels_of(png_of(4, [0, 0])) == [WHITE]


@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_cmyk_is_converted_to_rgb(format_: str) -> None:
    colours = {(255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0), (0, 0, 0, 0): WHITE, (0, 255, 255, 0): RED}
    for inks, colour in colours.items():
        data = encode(Image.new("CMYK", (8, 8), inks), format_, **({"quality": 100} if format_ == "JPEG" else {}))
        assert np.abs(np.array(pixels_of(data)) - colour).max() <= 2


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_an_error(mode: str) -> None:
    with pytest.raises(UnreadableImageError, match="x: unreadable image: 32-bit"):
        decode_image(blank("TIFF", mode), "x")


QUARTERS = np.zeros((32, 48, 3), np.uint8)
QUARTERS[:16, :16], QUARTERS[:16, 16:32] = WHITE, RED
UPRIGHT = {
    1: QUARTERS,
    2: QUARTERS[:, ::-1],
    3: QUARTERS[::-1, ::-1],
    4: QUARTERS[::-1],
    5: QUARTERS.transpose(1, 0, 2),
    6: np.rot90(QUARTERS, -1),
    7: QUARTERS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(QUARTERS, 1),
}
"""EXIF orientation of QUARTERS -> upright image (CIPA DC-008)."""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(format_: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if format_ == "JPEG" else lossless(format_)
    data = encode(Image.fromarray(QUARTERS), format_, exif=exif, **options)
    decoded = np.asarray(decode_image(data, "x")).astype(int)
    assert decoded.shape == UPRIGHT[orientation].shape
    assert np.abs(decoded - UPRIGHT[orientation]).max() <= 3
    upright = encode(Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation])), "PNG")
    actual, expected = (np.asarray(thumbnail).astype(int) for thumbnail in thumbnails([data, upright], 16))
    assert np.abs(actual - expected).mean() <= 3


@pytest.mark.parametrize("exif", [b"Exif\0\0no tiff", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(100)])
def test_corrupt_exif_data_is_ignored(exif: bytes) -> None:
    image = Image.fromarray(QUARTERS)
    assert pixels_of(encode(image, "JPEG", exif=exif)) == pixels_of(encode(image, "JPEG"))


def test_transparent_pixels_become_white() -> None:
    half = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    half.putpixel((1, 0), (0, 0, 0, 127))
    half.putpixel((2, 0), (*RED, 255))
    for format_, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        assert pixels_of(encode(half, format_, **options)) == [WHITE, GREY, RED]
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, *RED])
    palette.putpixel((1, 0), 1)
    for format_ in ("PNG", "GIF"):
        assert pixels_of(encode(palette, format_, transparency=0)) == [WHITE, RED]
    for mode, black in (("L", 0), ("RGB", (0, 0, 0)), ("1", 0)):
        assert pixels_of(encode(Image.new(mode, (1, 1)), "PNG", transparency=black)) == [WHITE]
    assert pixels_of(blank("PNG", "LA", (1, 1))) == [WHITE]


@pytest.mark.parametrize("format_", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_frame_is_decoded(format_: str) -> None:
    first, second = Image.new("RGB", (2, 1), RED), Image.new("RGB", (2, 1), WHITE)
    data = encode(first, format_, save_all=True, append_images=[second], **lossless(format_))
    assert pixels_of(data) == [RED, RED]


@pytest.mark.parametrize("format_", ["BMP", "GIF", "TIFF", "PNG", "WEBP"])
def test_lossless_formats_keep_their_pixels(format_: str) -> None:
    data = encode(Image.fromarray(QUARTERS), format_, **lossless(format_))
    assert (np.asarray(decode_image(data, "x")) == QUARTERS).all()


def test_only_one_module_opens_images() -> None:
    package = Path(syncclip.__file__).parent
    modules = [path for path in package.rglob("*.py") if "Image.open(" in path.read_text()]
    assert modules == [package / "shards" / "images.py"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_once(format_: str, orientation: int) -> None:
    """`Model.preprocess` converts what `decode_image` returned again."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    decoded = decode_image(encode(Image.fromarray(QUARTERS), format_, exif=exif, **lossless(format_)), "x")
    assert (np.asarray(to_rgb(decoded)) == np.asarray(decoded)).all()


def test_the_image_of_a_caller_is_not_changed() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.open(io.BytesIO(encode(Image.fromarray(QUARTERS), "PNG", exif=exif)))
    assert (np.asarray(to_rgb(image)) == np.asarray(to_rgb(image))).all() and "exif" in image.info
