"""Where every image of a set is stored, as told by the markers and tables of its shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.shards.images import Corruption
from syncclip.shards.markers import Shard, markers, shard_name, table_name
from syncclip.shards.tables import parse_table

Rows = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.integer[Any]]
"""Whole numbers, in as few bytes as hold the largest of them: nothing may be added to them as they are."""

_TABLES_AT_ONCE = 16
_COLUMNS = ("index", "label", "jpg_offset", "jpg_size")

SIX = ("index", "label", "shard", "place", "offset", "size")
"""Columns of `SampleTable` that tell where an image is."""


class Places(NamedTuple):
    """Where some images are stored: arrays of one length."""

    shard: Rows
    place: Rows
    offset: Rows
    size: Rows


@dataclass(frozen=True)
class SampleTable:
    """Where every image is stored: six arrays of one length, in index-major order (ascending `index`); and the rows of
    each class."""

    index: Numbers  # place in the whole set
    label: Rows
    shard: Numbers  # number of the shard
    place: Numbers  # row in the table of the shard
    offset: Numbers  # of the image in the tar, bytes
    size: Numbers  # of the image, bytes
    by_label: Numbers  # rows, those of the smallest label first, and those of a label ascending
    classes: Numbers  # the labels that there are, ascending
    starts: Numbers  # where in `by_label` the rows of each class begin, and at last their number

    @staticmethod
    def of(columns: Sequence[Numbers] | Numbers) -> SampleTable:
        """The table of the six columns; which row shows which class is found out."""
        index, label, *where = columns
        by_label = np.argsort(label, kind="stable")
        ordered = label[by_label]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        narrow = dict(zip(SIX, map(narrowed, (index, label, *where)), strict=True), by_label=narrowed(by_label))
        narrow |= {"starts": narrowed(np.append(starts, len(ordered))), "classes": ordered[starts].astype(np.int64)}
        return SampleTable(**{**narrow, "label": label.astype(np.int64)})  # type: ignore[arg-type]

    def at(self, rows: Rows) -> Places:
        """Where the images of some rows are."""
        return Places(*(getattr(self, name)[rows].astype(np.int64) for name in Places._fields))

    def rows_of(self, label: int) -> Numbers:
        """Ascending rows of a class, a view; empty where it has none."""
        place = int(np.searchsorted(self.classes, label))
        if place == len(self.classes) or self.classes[place] != label:
            return self.by_label[:0]
        return self.by_label[int(self.starts[place]) : int(self.starts[place + 1])]

    def first(self, max_per_class: int) -> SampleTable:
        """The table of the first images of each class alone; views of this one's columns where they come first."""
        begins = self.starts[:-1].astype(np.int64)
        counts = np.minimum(self.starts[1:] - self.starts[:-1], max_per_class).astype(np.int64)
        if counts.sum() == len(self.index):
            return self
        by_label = np.concatenate([self.by_label[a : a + n] for a, n in zip(begins, counts, strict=True)])
        starts = np.concatenate([[0], np.cumsum(counts)])
        kept: slice | Numbers = slice(len(by_label))
        if by_label.max() >= len(by_label):
            kept = np.sort(by_label)
            by_label = narrowed(np.searchsorted(kept, by_label))
        columns = {name: getattr(self, name)[kept] for name in SIX}
        return SampleTable(**columns, by_label=by_label, classes=self.classes, starts=starts)


def narrowed(numbers: Numbers) -> Numbers:
    """The same numbers in the smallest unsigned type that holds them; as they are where one is negative."""
    if not len(numbers) or numbers.min() < 0:
        return numbers
    return numbers.astype(np.min_scalar_type(int(numbers.max())))


def shards_by_markers(url: str, owner: str | None = None) -> dict[int, Shard]:
    """Shard -> what its marker tells, of the shards that exist, in order.

    Raises:
        DamagedError: a marker is not as it was written.
    """
    return {one.shard: Shard.of(one) for one in markers(url, owner=owner)}


def read_samples(url: str, corruption: Corruption) -> tuple[dict[int, Shard], SampleTable]:
    """The shards of a set and the tables of all of them as one; unreadable ones are counted and left out.

    Raises:
        UserError: no committed shard, too many corrupt ones, or a sample that is in two shards.
    """
    shards, counts = {}, {}
    for one in markers(url):
        shards[one.shard] = Shard.of(one)
        counts[one.shard] = _hash(one.per_class)
    if not shards:
        raise UserError(f"{url}: no committed shard there; make the set first, or check the path")
    columns = _room(list(shards.values()))
    readable, end = 0, 0
    for shard, part in _tables(url, shards, counts):
        if isinstance(part, str):
            corruption.skip(storage.join(url, table_name(shard)), part, shards[shard].images)
            continue
        if not part.shape[1]:
            corruption.skip(storage.join(url, shard_name(shard)), "an empty shard, it has no image", 0)
        for column, values in zip(columns, part, strict=True):
            column[end : end + part.shape[1]] = values
        readable, end = readable + 1, end + part.shape[1]
    if not readable:
        raise UserError(f"{url}: no shard there has a readable table; check the set with `shards verify`")
    columns = [column[:end] for column in columns]
    if not end:
        raise UserError(f"{url}: there is no image in {counted(len(shards), 'shard')}; make the set anew")
    index, shard_of = columns[0], columns[2]
    if np.any(index[1:] < index[:-1]):
        order = np.argsort(index, kind="stable")
        columns = [column[order] for column in columns]
        index, shard_of = columns[0], columns[2]
    twice = np.flatnonzero(index[1:] == index[:-1])
    if len(twice):
        place = int(twice[0])
        raise UserError(
            f"{url}: sample {index[place]} is both in {shard_name(shard_of[place])} and "
            f"{shard_name(shard_of[place + 1])}; "
            "these shards are of two sets, keep them in folders of their own"
        )
    return shards, SampleTable.of(columns)


def _room(shards: Sequence[Shard]) -> list[Numbers]:
    """Empty columns for all images; each is as wide as its largest number needs, which the markers tell of most."""
    images, size = max(one.images for one in shards), max(one.bytes for one in shards)
    largest = {"shard": shards[-1].shard, "place": images, "offset": size, "size": size}
    total = sum(one.images for one in shards)
    return [np.empty(total, np.min_scalar_type(largest[name]) if name in largest else np.int64) for name in SIX]


def _tables(url: str, shards: Mapping[int, Shard], counts: Mapping[int, int]) -> Iterator[tuple[int, Rows | str]]:
    """Each shard with the rows of its table, or why they cannot be its own; some files are read at once."""
    folder, numbers = storage.join(url, ""), list(shards)
    for first in range(0, len(numbers), _TABLES_AT_ONCE):
        urls = {shard: folder + table_name(shard) for shard in numbers[first : first + _TABLES_AT_ONCE]}
        found = storage.read_many(list(urls.values()), sealed=False)
        for shard, place in urls.items():
            yield shard, _columns(found.get(place, b""), shards[shard], counts[shard])


def _columns(data: bytes, shard: Shard, counts: int) -> Rows | str:
    """(6, count) the columns of `SampleTable` for one shard, or why the table cannot be that of this shard."""
    try:
        table = parse_table(data, shard.table_sha256, _COLUMNS)
    except (OSError, ValueError) as error:
        return f"unreadable table: {error}"
    index, label, offset, size = (table[name].to_numpy().astype(np.int64, copy=False) for name in _COLUMNS)
    if len(index) != shard.images:
        return f"its table has {len(index)} rows, its marker says {shard.images}"
    if len(index) and (offset.min() < 0 or size.min() < 0 or (offset + size).max() > shard.bytes):
        return "its table points outside the tar"
    if _hash(Counter(label.tolist())) != counts:
        return "its table shows other classes than its marker"
    return np.stack([index, label, np.full_like(index, shard.shard), np.arange(len(index)), offset, size])


def _hash(per_class: Mapping[int, int]) -> int:
    """Of the images of each class: ten thousand such tables would take more memory than all that they count."""
    return hash(tuple(sorted((label, count) for label, count in per_class.items() if count)))
