"""Random access to the images of a set, by the offset tables of its committed shards."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from syncclip import storage
from syncclip.core import order
from syncclip.core.formats import parse_json
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.shards.cache import ShardCache, ShardFile
from syncclip.shards.images import Corruption, UnreadableImageError, decode_image
from syncclip.shards.markers import ShardStats, committed, sample_key, shard_name, table_name
from syncclip.shards.tables import parse_table, read_table, table_digests

Rows = npt.NDArray[np.int64]

_TABLES_AT_ONCE = 16
_NUMBERS = ("index", "label", "jpg_offset", "jpg_size")


class ImageSet(ABC):
    """Labelled images by row number: what streams, evaluations and packing need of a set, wherever it is stored."""

    labels: Rows
    """(len,) class ids."""

    def __len__(self) -> int:
        return len(self.labels)

    def rows_of(self, label: int) -> Rows:
        """Ascending rows of a class; empty where it has none."""
        return np.flatnonzero(self.labels == label).astype(np.int64)

    @abstractmethod
    def read(self, row: int) -> bytes:
        """The image file of a row.

        Raises:
            UserError: it is gone or cannot be read.
        """

    @abstractmethod
    def name(self, row: int) -> str:
        """What an image is called in a message."""

    def image(self, row: int) -> Image.Image:
        """The RGB image of a row.

        Raises:
            UnreadableImageError: it cannot be decoded.
        """
        return decode_image(self.read(row), self.name(row))


@dataclass(frozen=True)
class SampleTable:
    """Where every image is stored: arrays of one length, in index-major order (ascending `index`)."""

    index: Rows  # place in the whole set
    label: Rows
    shard: Rows  # number of the shard
    place: Rows  # row in the table of the shard
    offset: Rows  # of the image in the tar, bytes
    size: Rows  # of the image, bytes

    def take(self, rows: Rows) -> SampleTable:
        """The same table of some rows only."""
        return SampleTable(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class ShardSet(ImageSet):
    """The committed shards of a set, as a list of images in index-major order.

    Only numbers are held for every sample (48 bytes each); images, texts and provenance are read where they are asked
    for. Later shards do not appear in an open set. Safe to share between threads; open it again in another process.
    """

    def __init__(self, url: str, corrupt_limit: int = 16, cache: ShardCache | None = None) -> None:
        """
        Args:
            url: Folder or prefix of the set.
            corrupt_limit: How many images may be lost with shards whose table cannot be read, before it is an error.
            cache: Shared bounded cache of remote shards; None for one of its own.

        Raises:
            UserError: No committed shard, too many corrupt ones, or a sample that is in two shards.
        """
        self.url = url
        self.cache = cache or ShardCache()
        self.corruption = Corruption(corrupt_limit)
        self.shards = committed(url)
        if not self.shards:
            raise UserError(f"{url}: no committed shard there; make the set first, or check the path")
        self._digests = digests = table_digests(url, self.shards)
        self.samples = self._read_tables()
        self._table = lru_cache(maxsize=8)(lambda shard: read_table(url, shard, digests[shard]))
        self._group()

    def rows_of(self, label: int) -> Rows:
        first, last = np.searchsorted(self._sorted_labels, [label, label + 1])
        return self._by_label[first:last]

    def subset(self, max_per_class: int) -> ShardSet:
        """A view of the first `max_per_class` images of each class (a prefix of the set's order).

        Rows of the view count from 0 in the set's order; both share files and caches.
        """
        if max_per_class < 1:
            raise UserError(f"at most {max_per_class} images per class leaves none; give 1 or more")
        view = copy.copy(self)
        view.samples = self.samples.take(np.flatnonzero(order.ranks(self.labels) < max_per_class))
        view._group()
        return view

    def name(self, row: int) -> str:
        """What an image is called in a message: `…/00003.tar:000000017.jpg`."""
        return f"{self._file(row).url}:{sample_key(int(self.samples.index[row]))}.jpg"

    def read(self, row: int) -> bytes:
        """The image file of a row, as it is in the tar; shorter where the tar was cut off since.

        Raises:
            UnreadableImageError: The cache checks shards, and this one is damaged.
            MissingError: Its shard was removed after the set was opened.
        """
        samples = self.samples
        return self.cache.read(self._file(row), int(samples.offset[row]), int(samples.size[row]))

    def image(self, row: int) -> Image.Image:
        """The RGB image of a row.

        Raises:
            UnreadableImageError: It cannot be decoded, or its shard is damaged or was removed after the set was opened.
        """
        try:
            return super().image(row)
        except storage.MissingError as error:
            shard = self._file(row)
            raise UnreadableImageError(shard.url, str(error), shard.images) from error

    def read_many(self, rows: Rows) -> list[bytes]:
        """The image files of some rows, from each shard in one piece; b"" of a shard that was removed since."""
        samples, files = self.samples.take(rows), [b""] * len(rows)
        for shard in np.unique(samples.shard).tolist():
            places = np.flatnonzero(samples.shard == shard)
            starts, ends = samples.offset[places], samples.offset[places] + samples.size[places]
            first = int(starts.min())
            with suppress(storage.MissingError):
                piece = storage.read_bytes(storage.join(self.url, shard_name(shard)), first, int(ends.max()))
                for place, start, end in zip(places.tolist(), starts - first, ends - first, strict=True):
                    files[place] = piece[start:end]
        return files

    def texts(self, rows: Rows) -> list[str]:
        """The prompts or captions of some rows, from the table of each shard at once."""
        samples, texts = self.samples.take(rows), [""] * len(rows)
        for shard in np.unique(samples.shard).tolist():
            places = np.flatnonzero(samples.shard == shard).tolist()
            column = self._table(shard)["text"].take(samples.place[places]).to_pylist()
            for place, text in zip(places, column, strict=True):
                texts[place] = str(text)
        return texts

    def text(self, row: int) -> str:
        """The prompt or caption of a row."""
        return self.texts(np.array([row]))[0]

    def provenance(self, row: int) -> dict[str, Any]:
        """Where the image of a row came from."""
        table = self._table(int(self.samples.shard[row]))
        text = table["provenance"][int(self.samples.place[row])].as_py()
        return parse_json(text, f"{self.name(row)}: provenance", dict, "see `syncclip shards verify`")

    def check_labels(self, classes: int) -> None:
        """Refuse a set with a class id that `classes` classes don't have.

        Raises:
            UserError: The sentence names the first such image.
        """
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= classes))
        if len(wrong):
            raise UserError(
                f"{self.name(int(wrong[0]))}: class {self.labels[wrong[0]]} is out of range, there are {classes} "
                f"(0 to {classes - 1}); {len(wrong)} image(s) have such a .cls, make a new set for these classes"
            )

    def hold(self, shards: Iterable[int]) -> None:
        """Start to copy these remote shards in the background, and release the others; nothing for local ones."""
        if not storage.is_local(self.url):
            self.cache.hold([self._shard_file(shard) for shard in shards], storage.join(self.url, ""))

    def through(self, cache: ShardCache) -> ShardSet:
        """The same images, read through another cache."""
        view = copy.copy(self)
        view.cache = cache
        return view

    def _file(self, row: int) -> ShardFile:
        return self._shard_file(int(self.samples.shard[row]))

    def _shard_file(self, shard: int) -> ShardFile:
        stats = self.shards[shard]
        return ShardFile(storage.join(self.url, shard_name(shard)), stats.bytes, stats.sha256, stats.count)

    def _group(self) -> None:
        self.labels = self.samples.label
        self._by_label: Rows = np.argsort(self.labels, kind="stable").astype(np.int64, copy=False)
        self._sorted_labels = self.labels[self._by_label]

    def _read_tables(self) -> SampleTable:
        """The tables of all shards as one, some files at a time; unreadable ones are counted and left out."""
        shards, folder = list(self.shards), storage.join(self.url, "")
        columns: Rows = np.empty((6, sum(stats.count for stats in self.shards.values())), np.int64)
        readable, end = 0, 0
        for first in range(0, len(shards), _TABLES_AT_ONCE):
            urls = {folder + table_name(s): s for s in shards[first : first + _TABLES_AT_ONCE]}
            found = storage.read_many(list(urls))
            for url, shard in urls.items():
                part = _columns(found.get(url, b""), self.shards[shard], self._digests[shard])
                if isinstance(part, str):
                    self.corruption.skip(url, part, self.shards[shard].count)
                    continue
                if not part.shape[1]:
                    self.corruption.skip(
                        storage.join(self.url, shard_name(shard)), "an empty shard, it has no image", 0
                    )
                columns[:, end : end + part.shape[1]] = part
                readable, end = readable + 1, end + part.shape[1]
        if not readable:
            raise UserError(f"{self.url}: no shard there has a readable table; check the set with `shards verify`")
        columns = columns[:, :end]
        if not end:
            raise UserError(f"{self.url}: there is no image in {counted(len(shards), 'shard')}; make the set anew")
        if np.any(columns[0, 1:] < columns[0, :-1]):
            columns = columns[:, np.argsort(columns[0], kind="stable")]
        twice = np.flatnonzero(columns[0, 1:] == columns[0, :-1])
        if len(twice):
            index, a, b = columns[0, twice[0]], columns[2, twice[0]], columns[2, twice[0] + 1]
            raise UserError(
                f"{self.url}: sample {index} is both in {shard_name(a)} and {shard_name(b)}; "
                "these shards are of two sets, keep them in folders of their own"
            )
        return SampleTable(*columns)


def _columns(data: bytes, stats: ShardStats, digest: str) -> Rows | str:
    """(6, count) rows of `SampleTable` for one shard, or why the table cannot be that of this shard."""
    try:
        table = parse_table(data, digest, _NUMBERS)
    except (OSError, ValueError) as error:
        return f"unreadable table: {error}"
    index, label, offset, size = (table[name].to_numpy().astype(np.int64, copy=False) for name in _NUMBERS)
    if len(index) != stats.count:
        return f"its table has {len(index)} rows, its marker says {stats.count}"
    if len(index) and (offset.min() < 0 or size.min() < 0 or (offset + size).max() > stats.bytes):
        return "its table points outside the tar"
    if dict(Counter(label.tolist())) != {label: count for label, count in stats.per_class.items() if count}:
        return "its table shows other classes than its marker"
    return np.stack([index, label, np.full_like(index, stats.shard), np.arange(len(index)), offset, size])
