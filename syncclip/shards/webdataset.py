"""Any WebDataset of images with classes, as others write it: read in place, without tables or commit markers."""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.settings import UserError
from syncclip.core.text import cut, few, size
from syncclip.shards.cache import ShardCache, ShardFile
from syncclip.shards.images import FORMATS, READABLE
from syncclip.shards.reader import ImageSet
from syncclip.shards.tars import MOST_IMAGE, MOST_TEXT, files_in, open_tar

IMAGES = tuple(extension[1:] for extensions in FORMATS.values() for extension in extensions)
"""Kinds of members that are images; of several in a sample, the first in this order counts."""
LABEL_KEYS = ("label", "cls", "class")
"""Where a sample has no `.cls` member: the keys of its `.json` that may hold the class."""


@dataclass(frozen=True)
class Member:
    """Where one image is, and what is beside it in the tar."""

    tar: int
    offset: int
    size: int
    key: str
    label: str | int
    text: str


def tars_in(url: str) -> list[str]:
    """The tar files of a folder or prefix, by name; [] where there are none."""
    return [
        storage.join(url, name) for name in storage.sizes(url) if name.endswith(".tar") and not name.startswith(".")
    ]


def index_tars(urls: Sequence[str], skipped: Counter[str] | None = None) -> list[Member]:
    """Read the headers of all tars, and the small members with classes; images are not read.

    Args:
        skipped: counts, by extension, the members that are not used.

    Raises:
        UserError: a tar is damaged, or a sample has no image or no class.
    """
    found: list[Member] = []
    skipped = Counter() if skipped is None else skipped
    for number, url in enumerate(urls):
        before = len(found)
        try:
            found.extend(_members(number, url, skipped))
        except tarfile.TarError as error:
            raise UserError(f"{url}: not a sound tar file ({error}); fetch it anew.") from error
        if len(found) == before:
            raise UserError(f"{url}: an empty tar, it has no image; fetch it anew, or remove it.")
    return found


class TarSet(ImageSet):
    """Labelled images in tars, read by offset. Safe to share between threads; open it again in another process."""

    def __init__(self, urls: Sequence[str], members: Sequence[Member], labels: Sequence[int]) -> None:
        """
        Args:
            urls: of the tars that `members` count.
            members: one for each image.
            labels: their class ids.
        """
        self._urls, self._members = list(urls), list(members)
        self.labels = np.asarray(labels, np.int64)
        self._cache = ShardCache()

    def name(self, row: int) -> str:
        """What an image is called in a message: `…/0.tar:s0000017`."""
        return f"{self._urls[self._members[row].tar]}:{self._members[row].key}"

    def read(self, row: int) -> bytes:
        """The image's file, as it is in the tar."""
        member = self._members[row]
        url = self._urls[member.tar]
        return self._cache.read(ShardFile(url), member.offset, member.size)

    def text(self, row: int) -> str:
        """The caption beside an image; "" where it has none."""
        return self._members[row].text


def _members(number: int, url: str, skipped: Counter[str]) -> Iterator[Member]:
    with storage.open_read(url) as file, open_tar(file) as tar:
        key, keys = "", set[str]()
        parts: dict[str, tarfile.TarInfo] = {}
        for name, member in files_in(tar):
            path = PurePosixPath(name)
            stem, _, kind = path.name.partition(".")
            if not stem or (member is None and kind.lower() not in (*IMAGES, "cls")):
                continue  # a name that begins with a dot is an operating system's
            if member is None:
                raise UserError(
                    f"{url}: {cut(name)!r} is a link to a file that is not in the tar; pack it with that file."
                )
            if (of := str(path.with_name(stem))) != key and parts:
                yield _member(number, url, key, parts, tar, skipped)
                parts = {}
            if of in keys if of != key else kind.lower() in parts:
                raise UserError(f"{url}: two samples have the key {cut(of)!r}; give each a key of its own.")
            key = of
            keys.add(key)
            parts[kind.lower()] = member
        if parts:
            yield _member(number, url, key, parts, tar, skipped)
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
            raise tarfile.ReadError(f"damaged header at byte {tar.offset}")


def _member(
    number: int, url: str, key: str, parts: dict[str, tarfile.TarInfo], tar: tarfile.TarFile, skipped: Counter[str]
) -> Member:
    shown = next((kind for kind in IMAGES if kind in parts), None)
    if shown is None:
        raise UserError(f"{url}: sample {key!r} has no image ({READABLE}), only {few(parts)}.")
    image = parts[shown]
    skipped.update(f".{kind}" for kind in parts if kind not in (shown, "cls", "json", "txt"))
    if large := [one for one in parts.values() if one.size > (MOST_IMAGE if one is image else MOST_TEXT)]:
        raise UserError(f"{url}: {cut(large[0].name)!r} has {size(large[0].size)}, more than is read; remove it.")
    label = _text(tar, parts.get("cls"))
    if label is None and "json" in parts:
        keys: dict[str, object] = {}
        with suppress(UserError):
            keys = parse_json(_text(tar, parts["json"]) or "", key, dict)
        label = next((str(keys[name]) for name in LABEL_KEYS if keys.get(name) is not None), None)
    if not label:
        raise UserError(f"{url}: sample {key!r} has no class; give each a .cls member, or {LABEL_KEYS[0]!r} in .json.")
    number_or_name = int(label) if re.fullmatch(r"-?\d{1,18}", label) else label
    text = _text(tar, parts.get("txt")) or ""
    return Member(number, image.offset_data, image.size, key, number_or_name, text)


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> str | None:
    file = tar.extractfile(member) if member is not None else None
    return file.read().decode(errors="replace").strip() if file is not None else None
