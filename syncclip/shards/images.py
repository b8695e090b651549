"""The one place where bytes become images, and the account of those that could not.

MERGED JPEGs that lie about their size: libjpeg decodes as many pixels as the header says and no word of the rest.
"""

from __future__ import annotations

import ctypes
import io
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

from PIL import Image, ImageChops, ImageFile, UnidentifiedImageError

from syncclip.core.settings import UserError

MAX_PIXELS = 50_000_000  # 150 MB decoded; a small file can claim far more
FORMATS = ("JPEG", "PNG", "WEBP")

Account = tuple[dict[str, int], dict[str, str]]
"""Of what was skipped: name -> images lost with it, name -> why."""

log = logging.getLogger(__name__)


class UnreadableImageError(UserError):
    """An image that cannot be decoded, or the whole shard that it lies in; the text names it and says why."""

    def __init__(self, name: str, reason: str, images: int = 1) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason, self.images = name, reason, images

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str, int]]:
        return type(self), (self.name, self.reason, self.images)  # else it could not come back from another process


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode JPEG, PNG or WebP bytes to RGB.

    Args:
        data: The whole file.
        name: What to call it in an error.
        max_pixels: Larger images are refused from their header, before any pixel is allocated.

    Raises:
        UnreadableImageError: Not such an image, cut off, damaged, too large, or of another size than its data shows.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height <= max_pixels:
                return decode(image, data) if image.format == "JPEG" else as_rgb(image)
    except Exception as error:  # damaged data makes decoders raise nearly anything
        reason = "not a JPEG, PNG or WebP image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UnreadableImageError(name, f"unreadable image: {reason}; remove or replace it") from error
    raise UnreadableImageError(name, f"{width} x {height} pixels are more than {max_pixels}; scale it down")


class Corruption:
    """What was skipped because it could not be read, by name; a `UserError` once it is more than `limit` images.

    Without a limit it only counts: somebody else tells.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.names: dict[str, int] = {}  # name -> images lost with it
        self.reasons: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def images(self) -> int:
        """How many images were lost so far."""
        return sum(self.names.values())

    def account(self) -> Account:
        """What was skipped so far, for another process or another set of the same training."""
        with self._lock:
            return dict(self.names), dict(self.reasons)

    def include(self, account: Account) -> None:
        """Count what another one skipped as well, without a word in the log: it said so already.

        Raises:
            UserError: together they are more than the limit.
        """
        names, reasons = account
        with self._lock:
            new = [name for name in names if name not in self.names]
            self.names |= names
            self.reasons |= reasons
        if new:
            self._check(reasons[new[-1]])

    def skip(self, name: str, reason: object, images: int = 1) -> None:
        """Count a damaged image or shard once, however often it is met, and say so in the log."""
        with self._lock:
            if name in self.names:
                return
            self.names[name], self.reasons[name] = images, str(reason)
            total = self.images
        if self.limit is None:
            return
        log.warning("skipped %s (%d image(s), %d in all): %s", name, images, total, reason)
        if images:
            self._check(reason)

    def _check(self, last: object) -> None:
        total = self.images
        if self.limit is not None and total > self.limit:
            raise UserError(f"{total} unreadable images, more than the limit of {self.limit}; the last: {last}")


class DecodedImages:
    """Decoded images, the least recently used forgotten beyond a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._images: OrderedDict[tuple[int, int], Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int], decode: Callable[[], Image.Image]) -> Image.Image:
        """The image kept under a key, else the one that `decode` gives; its errors pass through."""
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
        image = decode()
        with self._lock:
            if key not in self._images:
                self._images[key] = image
                self._bytes += 3 * image.width * image.height
            while self._bytes > self._limit:
                _, old = self._images.popitem(last=False)
                self._bytes -= 3 * old.width * old.height
        return image


SURPLUS = 50
"""A fiftieth of an image's data may be too much: some cameras and programs leave a few bytes behind it."""

_END = b"\xff\xd9"
_SMALL_BLOCK = 1032  # bytes; of larger ones glibc doesn't give the last one back as it was


class JpegFile(io.BytesIO):
    """An image's file that hands the last piece of a JPEG's data out alone, and knows whether it was asked for.

    A decoder that didn't need it was done before: the header speaks of fewer pixels than there are data. Pixels are the
    same as from a plain file, which this is to other kinds of images, to arithmetically coded JPEGs, whose decoder
    can't wait in the middle, and to progressive ones, which are read to their end in any case.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._last = _last_piece(data)

    @property
    def surplus(self) -> bool:
        """Whether the image, now decoded, was done without the last piece of its data."""
        return self._last is not None and self.tell() <= self._last

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, fewer before the last piece."""
        place = self.tell()
        if self._last is None or place >= self._last or size is None or size < 0:
            return super().read(size)
        return super().read(min(size, self._last - place))


def decode(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """The RGB image of a JPEG that was opened and not loaded.

    Args:
        data: the whole file.

    Raises:
        ValueError: its header says another size than its data shows.
    """
    image.fp = file = JpegFile(data)  # only now: a header takes dozens of its slow reads
    held = _blocks_beside_a_line(4 * image.width)
    decoded = as_rgb(image)
    del held
    fewer = ends_early(data, decoded)
    if fewer or file.surplus:
        width, height = image.size
        shows = "fewer" if fewer else "more"
        raise ValueError(f"its header says {width} x {height} pixels, but its data shows {shows}")
    return decoded


def as_rgb(image: Image.Image) -> Image.Image:
    """The image itself where it is RGB already."""
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def ends_early(data: bytes, decoded: Image.Image) -> bool:
    """Whether a JPEG's data ends before its header's last pixel: libjpeg then fills up with grey.

    What fills up is even, so only an image with an even last corner is looked at twice. Bytes put behind the data are
    more pixels to a decoder that is short of them, and nothing to one that has them all.

    Args:
        decoded: the RGB image that was made of the data.
    """
    width, height = decoded.size
    if decoded.getpixel((width - 1, height - 1)) != decoded.getpixel((max(0, width - 2), height - 1)):
        return False  # by far the most images
    corner = decoded.crop((max(0, width - 4), max(0, height - 2), width, height))
    end = data.rfind(_END)
    if end < 0 or any(low != high for low, high in corner.getextrema()):  # type: ignore[misc]
        return False
    longer = data[:end] + b"\x5a\xa5" * 32 + data[end:]
    with Image.open(io.BytesIO(longer), formats=("JPEG",)) as image:
        return ImageChops.difference(image.convert("RGB"), decoded).getbbox() is not None


def _blocks_beside_a_line(size: int) -> list[bytearray]:
    """Memory to hold while an image is decoded, so that its line of `size` bytes doesn't begin at a multiple of 32.

    libjpeg-turbo writes such a line around the cache, from which Pillow reads it the next moment; decoding then takes
    up to half as long again, in every second process and all through its life. glibc gives the block that was freed
    last to whoever asks for its size next. Where it doesn't, or isn't there, nothing is gained and nothing lost.
    """
    held: list[bytearray] = []
    while size <= _SMALL_BLOCK and len(held) < 16:
        block = bytearray(size - 1)  # which ends in a byte of its own
        if ctypes.addressof(ctypes.c_char.from_buffer(block)) % 32:
            break  # and is free for the line
        held.append(block)
    return held


def _last_piece(data: bytes) -> int | None:
    """Where the last piece of a sequential, Huffman-coded JPEG's data begins; None for everything else.

    Raises nothing: whoever decodes it tells what is wrong with its segments.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        kind, size = data[place + 1], data[place + 2] << 8 | data[place + 3]
        if kind == 0xFF:  # a byte that only fills
            place += 1
        elif kind == 0xDA:
            start = place + 2 + size
            end = data.find(_END, start)  # of the data: in it, a byte of ones is always followed by one of zeros
            pause = end - max(16, (end - start) // SURPLUS)
            return pause if pause > start else None
        elif kind in _OTHER_FRAMES or size < 2:
            return None
        else:
            place += 2 + size
    return None


_OTHER_FRAMES = frozenset(range(0xC2, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of frames that are not sequential or not Huffman-coded; the three are tables."""
