"""Random access to the images of a set, by the offset tables of its committed shards."""

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
from syncclip.shards.index import open_samples
from syncclip.shards.markers import sample_key, shard_name
from syncclip.shards.samples import Rows
from syncclip.shards.tables import read_table


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


class ShardSet(ImageSet):
    """The committed shards of a set, as a list of images in index-major order.

    Where each image is and what it shows is mapped from the set's index; memory holds it (some 30 bytes an image) where
    that isn't written yet. Images, texts and provenance are read where they are asked for. Later shards do not appear
    in an open set. Safe to share between threads; open it again in another process.
    """

    def __init__(
        self, url: str, max_corrupt_images: int = 16, cache: ShardCache | None = None, resolved: bool = False
    ) -> None:
        """
        Args:
            url: Folder or prefix of the set.
            max_corrupt_images: How many images may be lost with shards whose table cannot be read, before it is an
            error.
            cache: Shared bounded cache of remote shards; None for one of its own.
            resolved: See `open_samples`.

        Raises:
            UserError: No committed shard, too many corrupt ones, or a sample that is in two shards.
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
        """A view of the first `max_per_class` images of each class (a prefix of the set's order).

        Rows of the view count from 0 in the set's order; both share files and caches.
        """
        if max_per_class < 1:
            raise UserError(f"at most {max_per_class} images per class leaves none; give 1 or more")
        view = copy.copy(self)
        view.samples = self.samples.first(max_per_class)
        view.labels = view.samples.label
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
        samples, files = self.samples.at(rows), [b""] * len(rows)
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
        samples, texts = self.samples.at(rows), [""] * len(rows)
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
        return ShardFile(storage.join(self.url, shard_name(shard)), stats.bytes, stats.sha256, stats.images)
