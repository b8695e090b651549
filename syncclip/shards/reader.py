"""Random access to the images of a sharded dataset."""

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
    """Interface for labelled images, which are accessed by row number."""

    labels: Rows
    """Class ids, one per row."""

    def __len__(self) -> int:
        return len(self.labels)

    def rows_of(self, label: int) -> Rows:
        """Return the rows of a class in ascending order; the array is empty for an unknown class."""
        return np.flatnonzero(self.labels == label).astype(np.int64)

    @abstractmethod
    def read(self, row: int) -> bytes:
        """Read a row's image file; raise a `UserError` if the file is unreadable."""

    @abstractmethod
    def name(self, row: int) -> str:
        """Return the name of a row's image for use in messages."""

    @abstractmethod
    def size(self, row: int) -> int | None:
        """Return the size of a row's image file in bytes; None: the file is missing."""

    def image(self, row: int) -> Image.Image:
        """Decode a row's image to RGB; raise an `UnreadableImageError` if the image cannot be decoded."""
        return decode_image(self.read(row), self.name(row))


class ShardSet(ImageSet):
    """The images of a dataset's committed shards, sorted by index; thread-safe.

    The sample table is memory-mapped from the dataset's index; without an index, it takes about 30 bytes of memory per
    image. Images, texts and provenance are read on demand. Shards committed after opening are not included.
    """

    def __init__(
        self, url: str, max_corrupt_images: int = 16, cache: ShardCache | None = None, resolved: bool = False
    ) -> None:
        """
        Args:
            max_corrupt_images: maximum number of images lost to unreadable tables.
            cache: cache for remote shards; if None, a new cache is created.
            resolved: whether the files have already been listed, as in `open_samples`.

        Raises:
            UserError: see `read_samples`.
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
        """Return a view of the first `max_per_class` images of each class; the view shares files and caches."""
        if max_per_class < 1:
            raise UserError(f"a subset with {max_per_class} images per class is empty; use 1 or more")
        view = copy.copy(self)
        view.samples = self.samples.first(max_per_class)
        view.labels = view.samples.label
        return view

    def name(self, row: int) -> str:
        """Return the name of a row's image for use in messages, such as `…/00003.tar:000000017.jpg`."""
        return f"{self._file(row).url}:{sample_key(int(self.samples.index[row]))}.jpg"

    def read(self, row: int) -> bytes:
        """Read a row's image file, which is incomplete if the tar is truncated; see `ShardCache.read` for errors."""
        samples = self.samples
        return self.cache.read(self._file(row), int(samples.offset[row]), int(samples.size[row]))

    def size(self, row: int) -> int:
        return int(self.samples.size[row])

    def image(self, row: int) -> Image.Image:
        """Decode a row's image to RGB; raise an `UnreadableImageError` if the image or shard is unreadable."""
        try:
            return super().image(row)
        except storage.MissingError as error:
            shard = self._file(row)
            raise UnreadableImageError(shard.url, str(error), shard.images) from error

    def read_many(self, rows: Rows) -> list[bytes]:
        """Read the image files of the given rows with one request per shard; rows of a removed shard yield b""."""
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
        """Return the prompts or captions of the given rows; each shard's table is read once."""
        samples, texts = self.samples.at(rows), [""] * len(rows)
        for shard in np.unique(samples.shard).tolist():
            positions = np.flatnonzero(samples.shard == shard).tolist()
            column = self._table(shard)["text"].take(samples.place[positions]).to_pylist()
            for position, text in zip(positions, column, strict=True):
                texts[position] = str(text)
        return texts

    def text(self, row: int) -> str:
        """Return the prompt or caption of a row."""
        return self.texts(np.array([row]))[0]

    def provenance(self, row: int) -> dict[str, Any]:
        """Return the provenance of a row's image."""
        table = self._table(int(self.samples.shard[row]))
        text = table["provenance"][int(self.samples.place[row])].as_py()
        return parse_json(text, f"{self.name(row)}: provenance", dict, "run `syncclip shards verify`")

    def check_labels(self, classes: int) -> None:
        """Raise a `UserError` with the name of the first image whose class id is not in [0, `classes`), if any."""
        invalid = np.flatnonzero((self.labels < 0) | (self.labels >= classes))
        if len(invalid):
            name, label = self.name(int(invalid[0])), self.labels[invalid[0]]
            raise UserError(
                f"{name}: class id {label} is out of range (0 to {classes - 1}; images affected: {len(invalid)}); "
                "use a synthetic dataset with the classes of the recipe's dataset"
            )

    def hold(self, shards: Iterable[int]) -> None:
        """Prefetch the given shards in the background and release all others; has no effect on a local dataset."""
        if not storage.is_local(self.url):
            self.cache.hold([self._shard_file(shard) for shard in shards], storage.join(self.url, ""))

    def through(self, cache: ShardCache) -> ShardSet:
        """Return a view of the dataset that reads through a different cache."""
        view = copy.copy(self)
        view.cache = cache
        return view

    def _file(self, row: int) -> ShardFile:
        return self._shard_file(int(self.samples.shard[row]))

    def _shard_file(self, shard: int) -> ShardFile:
        stats = self.shards[shard]
        return ShardFile(storage.join(self.url, shard_name(shard)), stats.bytes, stats.sha256, stats.images)
