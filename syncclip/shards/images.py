"""The one place where bytes become images, and the account of those that could not."""

from __future__ import annotations

import io
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from syncclip.core.settings import UserError
from syncclip.core.text import printable

MAX_PIXELS = 50_000_000  # 150 MB decoded; a small file can claim far more
MAX_RATIO = 500  # of the sides; a CLIP resizes the shorter one to its own, and a line of pixels would become gigabytes

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
"""Formats that are decoded, and the extensions by which their files are found in folders and tars."""

EXTENSIONS = frozenset(extension for extensions in FORMATS.values() for extension in extensions)

READABLE = "JPEG, PNG, WebP, GIF, BMP or TIFF"

ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262
"""Tags of EXIF and TIFF."""

Account = tuple[dict[str, int], dict[str, str]]
"""Of what was skipped: name -> images lost with it, name -> why."""

log = logging.getLogger(__name__)


class UnreadableImageError(UserError):
    """An image that cannot be decoded, or the whole shard around it; the text names it and gives the reason."""

    def __init__(self, name: str, reason: str, images: int = 1) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason, self.images = name, reason, images

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str, int]]:
        return type(self), (self.name, self.reason, self.images)  # else it could not come back from another process


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode the bytes of an image file to RGB, as a viewer shows it; of several frames or pages, the first.

    Args:
        data: The whole file.
        name: What to call it in an error.

    Raises:
        UnreadableImageError: Not one of `FORMATS`, cut off, damaged, of more than `MAX_PIXELS`, or one side longer than
            `MAX_RATIO` times the other, which its header shows before any pixel is allocated; or its pixels are
            32-bit numbers, whose white is not defined.
    """
    try:
        with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS and max(width, height) <= MAX_RATIO * min(width, height):
                return to_rgb(image)
    except Exception as error:  # damaged data makes decoders raise nearly anything
        reason = f"not a {READABLE} image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UnreadableImageError(name, f"unreadable image: {reason}; remove or replace it") from error
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(name, f"{width} x {height} pixels are more than {MAX_PIXELS}; scale it down")
    raise UnreadableImageError(name, f"{width} x {height} pixels: one side is over {MAX_RATIO} times the other; cut it")


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as RGB, rotated as its EXIF data states, with transparent pixels on white.

    Greys of up to 16 bits keep their highest 8, as colours of 16 bits do. Colour profiles are not applied.

    Raises:
        ValueError: its pixels are 32-bit numbers.
    """
    image.load()
    exif = Image.Exif()
    with suppress(Exception):  # damaged metadata; viewers ignore it too
        exif.load(image.info.get("exif", b""))
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _to_8_bits(image)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        image = white
    if image.mode != "RGB":
        image = image.convert("RGB")
    operation = _TURNS.get(exif.get(ORIENTATION, 1))
    return image if operation is None else image.transpose(operation)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation."""


def _to_8_bits(image: Image.Image) -> Image.Image:
    """The highest 8 bits of a grey image of 12 or 16 bits, as mode L, or LA where a grey is transparent."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):  # a PNG of 16 bits in older Pillows
        raise ValueError("its pixels are 32-bit or signed numbers, whose white is not defined; save it with 8 bits")
    values = np.asarray(image)
    bits = tags.get(BITS, (16,))[0]
    grey = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:  # white is 0, which Pillow inverts in images of 8 bits alone
        grey = 255 - grey
    if (transparent := image.info.get("transparency")) is None:
        return Image.fromarray(grey)
    return Image.fromarray(np.dstack([grey, np.where(values == transparent, 0, 255).astype(np.uint8)]))


def thumbnails(files: Iterable[bytes], side: int) -> list[Image.Image | None]:
    """The middle square of each file's image, RGB and `side` pixels wide; None of what `decode_image` would refuse."""
    found: list[Image.Image | None] = []
    for data in files:
        thumbnail = None
        with suppress(Exception), Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            if image.width * image.height <= MAX_PIXELS:
                image.draft("RGB", (2 * side, 2 * side))  # decodes a large JPEG at a fraction of its size
                thumbnail = ImageOps.fit(to_rgb(image), (side, side), Image.Resampling.LANCZOS)
        found.append(thumbnail)
    return found


@dataclass(eq=False)
class Corruption:
    """What was skipped because it could not be read, by name; a `UserError` once it is more than `limit` images.

    Without a limit it only counts: the caller reports.
    """

    limit: int | None
    names: dict[str, int] = field(default_factory=dict)  # name -> images lost with it
    reasons: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def images(self) -> int:
        """How many images were lost so far."""
        return sum(self.names.values())

    def account(self) -> Account:
        """What was skipped so far, for another process or another set of the same training."""
        with self._lock:
            return dict(self.names), dict(self.reasons)

    def include(self, account: Account) -> None:
        """Count what another one skipped as well, without logging it again.

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
        """Count a damaged image or shard once, however often it is met, and log it."""
        with self._lock:
            if name in self.names:
                return
            self.names[name], self.reasons[name] = images, str(reason)
            total = self.images
        if self.limit is None:
            return
        log.warning("skipped %s (%d image(s), %d in all): %s", printable(name), images, total, printable(str(reason)))
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
