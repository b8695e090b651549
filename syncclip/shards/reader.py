"""Random access to the images of a set."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.settings import UserError
from syncclip.shards.cache import ShardCache, ShardFile
from syncclip.shards.images import Corruption, UnreadableImageError, decode_image
from syncclip.shards.index import Rows, open_samples
from syncclip.shards.markers import sample_key, shard_name
from syncclip.shards.tables import read_table


class ImageSet(ABC):
    """Labelled images by row number, independent of how they are stored."""

    labels: Rows
    """(len,) class ids."""

    def __len__(self) -> int:
        return len(self.labels)

    def rows_of(self, label: int) -> Rows:
        """Ascending rows of a class; empty for an unknown class."""
        return np.flatnonzero(self.labels == label).astype(np.int64)

    @abstractmethod
    def read(self, row: int) -> bytes:
        """Bytes of the image file of a row; raises a `UserError` if it cannot be read."""

    @abstractmethod
    def name(self, row: int) -> str:
        """Name of an image in messages."""

    def image(self, row: int) -> Image.Image:
        """RGB image of a row; raises an `UnreadableImageError` if it cannot be decoded."""
        return decode_image(self.read(row), self.name(row))


class ShardSet(ImageSet):
    """The images of a set's committed shards, in index-major order.

    The sample table is mapped from the set's index, or held in memory (some 30 bytes per image) without one; images,
    texts and provenance are read on access. Shards that are committed later do not appear. Safe to share between
    threads; open it again in another process.
    """

    def __init__(
        self, url: str, max_corrupt_images: int = 16, cache: ShardCache | None = None, resolved: bool = False
    ) -> None:
        """
        Args:
            max_corrupt_images: images that may be lost with unreadable tables before it is an error.
            cache: shared cache of remote shards; None: a cache for this set alone.
            resolved: see `open_samples`.

        Raises:
            UserError: there is no committed shard, too many are corrupt, or a sample is in two shards.
        """
        self.url = url
        self.cache = cache or ShardCache()
        self.corruption = Corruption(max_corrupt_images)
        self.shards, self.samples = open_samples(url, self.cache, self.corruption, resolved)
        self.labels = self.samples.label
        shards = self.shards
        self._table = lru_cache(maxsize=8)(lambda shard: read_table(url, shard, shards[shard].table_sha256))

    def rows_of(self, label: int) -> Rows:
        return self.samples.rows_of(label).astype(np.int64)

    def subset(self, max_per_class: int) -> ShardSet:
        """A view of the first `max_per_class` images of each class, in the set's order; it shares files and caches."""
        if max_per_class < 1:
            raise UserError(f"{max_per_class} images per class is an empty subset; use 1 or more")
        view = copy.copy(self)
        view.samples = self.samples.first(max_per_class)
        view.labels = view.samples.label
        return view

    def name(self, row: int) -> str:
        """Name of an image in messages: `…/00003.tar:000000017.jpg`."""
        return f"{self._file(row).url}:{sample_key(int(self.samples.index[row]))}.jpg"

    def read(self, row: int) -> bytes:
        """Bytes of the image file of a row; fewer if the tar has been truncated.

        Raises:
            UnreadableImageError: the shard is corrupt, and the cache verifies checksums.
            MissingError: the shard has been removed.
        """
        samples = self.samples
        return self.cache.read(self._file(row), int(samples.offset[row]), int(samples.size[row]))

    def image(self, row: int) -> Image.Image:
        """RGB image of a row; raises an `UnreadableImageError`, also if its shard is corrupt or has been removed."""
        try:
            return super().image(row)
        except storage.MissingError as error:
            shard = self._file(row)
            raise UnreadableImageError(shard.url, str(error), shard.images) from error

    def read_many(self, rows: Rows) -> list[bytes]:
        """Image files of some rows, with one read per shard; b"" if a shard has been removed."""
        samples, files = self.samples.at(rows), [b""] * len(rows)
        for shard in np.unique(samples.shard).tolist():
            positions = np.flatnonzero(samples.shard == shard)
            starts, ends = samples.offset[positions], samples.offset[positions] + samples.size[positions]
            first = int(starts.min())
            with suppress(storage.MissingError):
                piece = storage.read_bytes(storage.join(self.url, shard_name(shard)), first, int(ends.max()))
                for position, start, end in zip(positions.tolist(), starts - first, ends - first, strict=True):
                    files[position] = piece[start:end]
        return files

    def texts(self, rows: Rows) -> list[str]:
        """Prompts or captions of some rows, with one table read per shard."""
        samples, texts = self.samples.at(rows), [""] * len(rows)
        for shard in np.unique(samples.shard).tolist():
            positions = np.flatnonzero(samples.shard == shard).tolist()
            column = self._table(shard)["text"].take(samples.place[positions]).to_pylist()
            for position, text in zip(positions, column, strict=True):
                texts[position] = str(text)
        return texts

    def text(self, row: int) -> str:
        """Prompt or caption of a row."""
        return self.texts(np.array([row]))[0]

    def provenance(self, row: int) -> dict[str, Any]:
        """Provenance of the image of a row."""
        table = self._table(int(self.samples.shard[row]))
        text = table["provenance"][int(self.samples.place[row])].as_py()
        return parse_json(text, f"{self.name(row)}: provenance", dict, "see `syncclip shards verify`")

    def check_labels(self, classes: int) -> None:
        """Raise a `UserError` with the first image whose class id is not below `classes`."""
        invalid = np.flatnonzero((self.labels < 0) | (self.labels >= classes))
        if len(invalid):
            name, label = self.name(int(invalid[0])), self.labels[invalid[0]]
            raise UserError(
                f"{name}: class {label} is out of range (0 to {classes - 1}), like {len(invalid)} image(s) in total; "
                "use a set of these classes"
            )

    def hold(self, shards: Iterable[int]) -> None:
        """Prefetch these remote shards in the background and release all others; no effect on local shards."""
        if not storage.is_local(self.url):
            self.cache.hold([self._shard_file(shard) for shard in shards], storage.join(self.url, ""))

    def through(self, cache: ShardCache) -> ShardSet:
        """A view of the set that reads through another cache."""
        view = copy.copy(self)
        view.cache = cache
        return view

    def _file(self, row: int) -> ShardFile:
        return self._shard_file(int(self.samples.shard[row]))

    def _shard_file(self, shard: int) -> ShardFile:
        stats = self.shards[shard]
        return ShardFile(storage.join(self.url, shard_name(shard)), stats.bytes, stats.sha256, stats.images)
