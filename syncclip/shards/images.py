"""Image decoding, and records of images that cannot be decoded and of files that are skipped."""

from __future__ import annotations

import io
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from syncclip.core.settings import UserError
from syncclip.core.text import counted, few, printable, short_path

MAX_PIXELS = 50_000_000  # 150 MB once decoded; a small file can declare far more
MAX_ASPECT_RATIO = 500  # CLIP scales the shorter side to its input size, which could take gigabytes for a narrow image

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
"""Supported image formats, with their file extensions in folders and tars."""

EXTENSIONS = frozenset(extension for extensions in FORMATS.values() for extension in extensions)

NAMED = 3
"""Number of skipped files that are listed for each reason."""

READABLE = "JPEG, PNG, WebP, GIF, BMP or TIFF"

ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 258, 262
"""EXIF and TIFF tag numbers."""

Account = tuple[dict[str, int], dict[str, str]]
"""Record of skipped files: number of lost images and reason, by file."""

log = logging.getLogger(__name__)


class UnreadableImageError(UserError):
    """Raised if an image or a shard cannot be read."""

    def __init__(self, name: str, reason: str, images: int = 1) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason, self.images = name, reason, images

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str, int]]:
        return type(self), (self.name, self.reason, self.images)  # by default, only the message is pickled


def decode_image(data: bytes, name: str) -> Image.Image:
    """Decode the first frame of an image file to RGB, as an image viewer would; error messages contain `name`.

    Raises:
        UnreadableImageError: the file is truncated or corrupt, has an unsupported format or 32-bit pixels, or exceeds
            `MAX_PIXELS` or `MAX_ASPECT_RATIO`. Both limits are checked before pixels are allocated.
    """
    try:
        with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            width, height = image.size
            if width * height <= MAX_PIXELS and max(width, height) <= MAX_ASPECT_RATIO * min(width, height):
                return to_rgb(image)
    except Exception as error:  # decoders raise nearly any exception on corrupt data
        reason = f"not a {READABLE} image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise UnreadableImageError(name, f"unreadable image: {reason}; remove or replace the image") from error
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(
            name, f"{width} x {height} pixels exceed the limit of {MAX_PIXELS:,}; scale the image down"
        )
    raise UnreadableImageError(
        name, f"the aspect ratio of {width} x {height} pixels exceeds the limit of {MAX_ASPECT_RATIO}; crop the image"
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an opened image to RGB, apply its EXIF orientation, and composite transparent pixels over white.

    Only the 8 most significant bits of 16-bit values are kept. Colour profiles are ignored. Raises `ValueError` for
    32-bit pixels, whose white level is undefined.
    """
    image.load()
    exif = Image.Exif()
    with suppress(Exception):  # ignore corrupt metadata, as viewers do
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
    operation = _TRANSPOSITIONS.get(exif.get(ORIENTATION, 1))
    if operation is None:
        return image
    upright = image.transpose(operation)
    upright.info.pop("exif", None)  # Pillow copies it, and a second call would apply it again
    return upright


_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Mapping from each EXIF orientation to the operation that undoes it."""


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Reduce a 12- or 16-bit greyscale image to 8 bits: mode LA if a grey level is transparent, mode L otherwise."""
    tags = getattr(image, "tag_v2", {})  # TIFF only
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):  # older Pillow opens 16-bit PNGs as I
        raise ValueError("32-bit or signed pixels have no defined white level; save the image with 8 bits per channel")
    values = np.asarray(image)
    bits = tags.get(BITS, (16,))[0]
    grey = (values >> (bits - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:  # WhiteIsZero, which Pillow inverts only for 8-bit images
        grey = 255 - grey
    if (transparent := image.info.get("transparency")) is None:
        return Image.fromarray(grey)
    return Image.fromarray(np.dstack([grey, np.where(values == transparent, 0, 255).astype(np.uint8)]))


def thumbnails(files: Iterable[bytes], side: int) -> list[Image.Image | None]:
    """Return a square centre crop of each image file, `side` pixels wide, or None for a file that cannot be decoded."""
    cropped: list[Image.Image | None] = []
    for data in files:
        thumbnail = None
        with suppress(Exception), Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            if image.width * image.height <= MAX_PIXELS:
                image.draft("RGB", (2 * side, 2 * side))  # decodes a large JPEG at reduced size
                thumbnail = ImageOps.fit(to_rgb(image), (side, side), Image.Resampling.LANCZOS)
        cropped.append(thumbnail)
    return cropped


@dataclass(eq=False)
class Corruption:
    """Record of skipped images and shards, which raises a `UserError` if more than `limit` images are lost.

    If `limit` is None, no errors are raised and nothing is logged.
    """

    limit: int | None
    names: dict[str, int] = field(default_factory=dict)  # name -> number of lost images
    reasons: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def images(self) -> int:
        """Number of lost images."""
        return sum(self.names.values())

    def account(self) -> Account:
        """Return a copy of the record that `include` can merge in a different process or for a different dataset."""
        with self._lock:
            return dict(self.names), dict(self.reasons)

    def include(self, account: Account) -> None:
        """Merge the result of `account` without logging; raise a `UserError` if the limit is exceeded."""
        names, reasons = account
        with self._lock:
            new = [name for name in names if name not in self.names]
            self.names |= names
            self.reasons |= reasons
        if new:
            self._check(reasons[new[-1]])

    def skip(self, name: str, reason: object, images: int = 1) -> None:
        """Count and log an unreadable image or shard; repeated names are ignored."""
        with self._lock:
            if name in self.names:
                return
            self.names[name], self.reasons[name] = images, str(reason)
            total = self.images
        if self.limit is None:
            return
        log.warning("skipped %s (%d image(s), %d in total): %s", printable(name), images, total, printable(str(reason)))
        if images:
            self._check(reason)

    def _check(self, last: object) -> None:
        total = self.images
        if self.limit is not None and total > self.limit:
            limit = f"the limit of {self.limit} (max_corrupt_images)"
            raise UserError(f"{total} unreadable images, more than {limit}; last image: {last}")


@dataclass
class SkippedFiles:
    """Record of files that are not read as images: counts by reason, and the names of the first files.

    The reason is the extension, such as `.heic`, for a file that is skipped because of its extension.
    """

    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, path: str) -> None:
        """Count a file or folder; messages contain the last two components of its path."""
        self.counts[reason] += 1
        if len(names := self.names.setdefault(reason, [])) <= NAMED:
            names.append(short_path(path))

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """Summary, most frequent reason first: `skipped 3 files: 2 .heic (cat/a.heic, cat/b.heic), 1 folder (…)`."""
        counts = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        details = ", ".join(f"{count:,} {reason} ({few(self.names[reason])})" for reason, count in counts)
        other = any(reason.startswith(".") and reason not in EXTENSIONS for reason in self.counts)
        formats = f"; images must be {READABLE}" * other
        return f"skipped {counted(self.counts.total(), 'file')}: {details}{formats}"


class DecodedImages:
    """Thread-safe LRU cache of decoded images, with a size limit in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._images: OrderedDict[tuple[int, int], Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int], decode: Callable[[], Image.Image]) -> Image.Image:
        """Return the image cached under `key`, or call `decode` and cache its result; errors in `decode` propagate."""
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
