"""Labelled images in WebDataset tars without tables or commit markers."""

from __future__ import annotations

import re
import tarfile
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
from syncclip.shards.images import FORMATS, READABLE, SkippedFiles
from syncclip.shards.reader import ImageSet
from syncclip.shards.untrusted_tars import MAX_IMAGE_BYTES, MAX_TEXT_BYTES, files_in, open_tar

IMAGES = tuple(extension[1:] for extensions in FORMATS.values() for extension in extensions)
"""Extensions of image members, in order of precedence within a sample."""
LABEL_KEYS = ("label", "cls", "class")
"""Keys in a `.json` member that may contain the class if there is no `.cls` member."""


@dataclass(frozen=True)
class Member:
    """An image in a tar, with its location, label and caption."""

    tar: int  # position of the tar in the list of tars
    offset: int
    size: int
    key: str
    label: str | int
    text: str


def tars_in(url: str) -> list[str]:
    """Return the URLs of the tars in a folder or prefix, sorted by name; hidden files are ignored."""
    return [
        storage.join(url, name) for name in storage.sizes(url) if name.endswith(".tar") and not name.startswith(".")
    ]


def index_tars(urls: Sequence[str], skipped: SkippedFiles | None = None) -> list[Member]:
    """Read the headers, classes and captions of tars without reading images.

    Args:
        skipped: record of unused members, updated in place.

    Raises:
        UserError: a tar is corrupt or empty, or a sample has no image or no class.
    """
    members: list[Member] = []
    skipped = SkippedFiles() if skipped is None else skipped
    for number, url in enumerate(urls):
        before = len(members)
        try:
            members.extend(_members(number, url, skipped))
        except tarfile.TarError as error:
            raise UserError(f"{url}: not a valid tar file ({error}); download it again.") from error
        if len(members) == before:
            raise UserError(f"{url}: the tar contains no images; download it again, or remove it.")
    return members


class TarSet(ImageSet):
    """Labelled images in tars, read by offset; thread-safe."""

    def __init__(self, urls: Sequence[str], members: Sequence[Member], labels: Sequence[int]) -> None:
        """Combine the members of tars with one label per member; `Member.tar` is an index into `urls`."""
        self._urls, self._members = list(urls), list(members)
        self.labels = np.asarray(labels, np.int64)
        self._cache = ShardCache()

    def name(self, row: int) -> str:
        """Return the name of a row's image for use in messages, such as `…/0.tar:s0000017`."""
        return f"{self._urls[self._members[row].tar]}:{self._members[row].key}"

    def read(self, row: int) -> bytes:
        """Read a row's image file."""
        member = self._members[row]
        url = self._urls[member.tar]
        return self._cache.read(ShardFile(url), member.offset, member.size)

    def size(self, row: int) -> int:
        return self._members[row].size

    def text(self, row: int) -> str:
        """Return the caption of a row's image, or "" if the image has no caption."""
        return self._members[row].text


def _members(number: int, url: str, skipped: SkippedFiles) -> Iterator[Member]:
    with storage.open_read(url) as file, open_tar(file) as tar:
        key, keys = "", set[str]()
        parts: dict[str, tarfile.TarInfo] = {}
        for name, member in files_in(tar):
            path = PurePosixPath(name)
            stem, _, suffix = path.name.partition(".")
            extension = suffix.lower()
            if not stem or (member is None and extension not in (*IMAGES, "cls")):
                continue  # a hidden file
            if member is None:
                raise UserError(f"{url}: {cut(name)!r} links to a file that is not in the tar; add that file.")
            if (sample := str(path.with_name(stem))) != key and parts:
                yield _member(number, url, key, parts, tar, skipped)
                parts = {}
            if sample in keys if sample != key else extension in parts:
                raise UserError(f"{url}: two samples have the key {cut(sample)!r}; make the keys unique.")
            key = sample
            keys.add(key)
            parts[extension] = member
        if parts:
            yield _member(number, url, key, parts, tar, skipped)
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile treats a corrupt header as the end of the tar
            raise tarfile.ReadError(f"corrupt header at byte {tar.offset}")


def _member(
    number: int, url: str, key: str, parts: dict[str, tarfile.TarInfo], tar: tarfile.TarFile, skipped: SkippedFiles
) -> Member:
    extension = next((extension for extension in IMAGES if extension in parts), None)
    if extension is None:
        raise UserError(f"{url}: sample {key!r} has no image ({READABLE}), only {few(parts)}.")
    image = parts[extension]
    for name in sorted({*parts} - {extension, "cls", "json", "txt"}):
        skipped.add(f".{name}", f"{url}:{key}.{name}")
    if large := [part for part in parts.values() if part.size > (MAX_IMAGE_BYTES if part is image else MAX_TEXT_BYTES)]:
        raise UserError(f"{url}: {cut(large[0].name)!r} ({size(large[0].size)}) exceeds the size limit; remove it.")
    label = _text(tar, parts.get("cls"))
    if label is None and "json" in parts:
        keys: dict[str, object] = {}
        with suppress(UserError):
            keys = parse_json(_text(tar, parts["json"]) or "", key, dict)
        label = next((str(keys[name]) for name in LABEL_KEYS if keys.get(name) is not None), None)
    if not label:
        raise UserError(f"{url}: sample {key!r} has no class; add a .cls file, or {LABEL_KEYS[0]!r} to the .json file.")
    number_or_name = int(label) if re.fullmatch(r"-?\d{1,18}", label) else label
    text = _text(tar, parts.get("txt")) or ""
    return Member(number, image.offset_data, image.size, key, number_or_name, text)


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> str | None:
    file = tar.extractfile(member) if member is not None else None
    return file.read().decode(errors="replace").strip() if file is not None else None
