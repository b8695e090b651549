"""A dataset's sample table, which locates every image, and its index, which makes opening the dataset fast.

The sample table is built from the markers and tables of all shards. A finished dataset also stores the sample table in
an index. `index.safetensors` contains the columns of `SampleTable`, which are memory-mapped. `index.json`, written
last, contains the checksum of the columns and the content of the markers. If the index is corrupt or does not match the
folder's listing, all markers and tables are read instead.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, fields
from string import digits
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from syncclip import storage
from syncclip.core.session import current
from syncclip.core.settings import Settings, UserError
from syncclip.core.text import counted
from syncclip.runtime.progress import print_message
from syncclip.shards.cache import ShardCache, ShardFile
from syncclip.shards.images import Corruption, UnreadableImageError
from syncclip.shards.markers import Shard, marked_shards, markers, shard_name, table_name
from syncclip.shards.tables import parse_table

INDEX = "index.json"
COLUMNS = "index.safetensors"

Rows = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.integer[Any]]
"""Integer array with the smallest sufficient data type; convert the array to int64 before arithmetic."""

SIX = ("index", "label", "shard", "place", "offset", "size")
"""Columns of `SampleTable` with one value per image."""
SIGNED = ("label", "classes")
"""Columns that may contain negative numbers."""

_TABLES_AT_ONCE = 16
_COLUMNS = ("index", "label", "jpg_offset", "jpg_size")
_DTYPES = {"U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I64": "<i8"}
"""Mapping from safetensors data types to NumPy data types."""


class Locations(NamedTuple):
    """Locations of images as arrays of equal length; see `SampleTable` for the columns."""

    shard: Rows
    place: Rows
    offset: Rows
    size: Rows


@dataclass(frozen=True)
class SampleTable:
    """Locations of all images: six columns sorted by `index`, and the rows of each class."""

    index: Numbers  # position in the dataset
    label: Rows
    shard: Numbers  # shard number
    place: Numbers  # row in the shard's table
    offset: Numbers  # offset of the image in the tar, bytes
    size: Numbers  # size of the image, bytes
    by_label: Numbers  # rows sorted by label, ascending within each label
    classes: Numbers  # distinct labels, ascending
    starts: Numbers  # start of each class in `by_label`, followed by the number of rows

    @staticmethod
    def of(columns: Sequence[Numbers] | Numbers) -> SampleTable:
        """Build the table from the columns listed in `SIX`."""
        index, label, *location = columns
        by_label = np.argsort(label, kind="stable")
        ordered = label[by_label]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        narrow = dict(zip(SIX, map(_narrowed, (index, label, *location)), strict=True), by_label=_narrowed(by_label))
        narrow |= {"starts": _narrowed(np.append(starts, len(ordered))), "classes": ordered[starts].astype(np.int64)}
        return SampleTable(**{**narrow, "label": label.astype(np.int64)})  # type: ignore[arg-type]

    def at(self, rows: Rows) -> Locations:
        """Return the locations of the given rows."""
        return Locations(*(getattr(self, name)[rows].astype(np.int64) for name in Locations._fields))

    def rows_of(self, label: int) -> Numbers:
        """Return the rows of a class in ascending order, as a view; the array is empty for an unknown class."""
        position = int(np.searchsorted(self.classes, label))
        if position == len(self.classes) or self.classes[position] != label:
            return self.by_label[:0]
        return self.by_label[int(self.starts[position]) : int(self.starts[position + 1])]

    def first(self, max_per_class: int) -> SampleTable:
        """Return a table of the first `max_per_class` images of each class; its columns are views if possible."""
        begins = self.starts[:-1].astype(np.int64)
        counts = np.minimum(self.starts[1:] - self.starts[:-1], max_per_class).astype(np.int64)
        if counts.sum() == len(self.index):
            return self
        by_label = np.concatenate([self.by_label[a : a + n] for a, n in zip(begins, counts, strict=True)])
        starts = np.concatenate([[0], np.cumsum(counts)])
        kept: slice | Numbers = slice(len(by_label))
        if by_label.max() >= len(by_label):
            kept = np.sort(by_label)
            by_label = _narrowed(np.searchsorted(kept, by_label))
        columns = {name: getattr(self, name)[kept] for name in SIX}
        return SampleTable(**columns, by_label=by_label, classes=self.classes, starts=starts)


def _narrowed(numbers: Numbers) -> Numbers:
    """Convert an array to the smallest unsigned type, unless it is empty or contains negative numbers."""
    if not len(numbers) or numbers.min() < 0:
        return numbers
    return numbers.astype(np.min_scalar_type(int(numbers.max())))


def shards_by_markers(url: str, owner: str | None = None) -> dict[int, Shard]:
    """Read the committed shards from their markers, in ascending order; raise `DamagedError` if a marker is corrupt."""
    return {
        stats.shard: Shard(stats.shard, stats.count, stats.bytes, stats.sha256, stats.table_sha256)
        for stats in markers(url, owner=owner)
    }


def read_samples(url: str, corruption: Corruption) -> tuple[dict[int, Shard], SampleTable]:
    """Read all markers and tables of a dataset; unreadable tables are counted and skipped.

    Raises:
        UserError: there is no committed shard, too many tables are unreadable, or two shards contain the same sample.
    """
    shards = shards_by_markers(url)
    if not shards:
        raise storage.wrong_folder(
            url, "a dataset", "no committed shard found; generate the dataset first, or check the path"
        )
    images, size = max(shard.images for shard in shards.values()), max(shard.bytes for shard in shards.values())
    largest = {"shard": max(shards), "place": images, "offset": size, "size": size}
    total = sum(shard.images for shard in shards.values())
    # The smallest data types that fit the markers.
    columns = [np.empty(total, np.min_scalar_type(largest[name]) if name in largest else np.int64) for name in SIX]
    readable, end, folder, numbers = 0, 0, storage.join(url, ""), list(shards)
    for first in range(0, len(numbers), _TABLES_AT_ONCE):
        urls = {shard: folder + table_name(shard) for shard in numbers[first : first + _TABLES_AT_ONCE]}
        contents = storage.read_many(list(urls.values()), checksum_required=False)
        for shard, table_url in urls.items():
            part = _columns(contents.get(table_url, b""), shards[shard])
            if isinstance(part, str):
                corruption.skip(table_url, part, shards[shard].images)
                continue
            if not part.shape[1]:
                corruption.skip(storage.join(url, shard_name(shard)), "empty shard", 0)
            for column, values in zip(columns, part, strict=True):
                column[end : end + part.shape[1]] = values
            readable, end = readable + 1, end + part.shape[1]
    if not readable:
        raise UserError(f"{url}: no shard has a readable table; check the dataset with `syncclip shards verify`")
    if not end:
        raise UserError(f"{url}: no images in {counted(len(shards), 'shard')}; generate the dataset again")
    columns = [column[:end] for column in columns]
    index, shard_of = columns[0], columns[2]
    if np.any(index[1:] < index[:-1]):
        order = np.argsort(index, kind="stable")
        columns = [column[order] for column in columns]
        index, shard_of = columns[0], columns[2]
    duplicates = np.flatnonzero(index[1:] == index[:-1])
    if len(duplicates):
        row = int(duplicates[0])
        names = f"both {shard_name(shard_of[row])} and {shard_name(shard_of[row + 1])}"
        raise UserError(
            f"{url}: the folder contains shards of two datasets (sample {index[row]} is in {names}); move one dataset "
            "to a different folder"
        )
    return shards, SampleTable.of(columns)


def _columns(data: bytes, shard: Shard) -> Rows | str:
    """Return the (6, count) columns of `SampleTable` for one shard, or the reason why the shard's table is unusable."""
    try:
        table = parse_table(data, shard.table_sha256, _COLUMNS)
    except (OSError, ValueError) as error:
        return f"unreadable table: {error}"
    index, label, offset, size = (table[name].to_numpy().astype(np.int64, copy=False) for name in _COLUMNS)
    if len(index) != shard.images:
        return f"the table has {len(index)} rows, but the marker records {shard.images} images"
    if len(index) and (offset.min() < 0 or size.min() < 0 or (offset + size).max() > shard.bytes):
        return "the table contains an offset outside the tar"
    return np.stack([index, label, np.full_like(index, shard.shard), np.arange(len(index)), offset, size])


class Index(Settings):
    """Content of `index.json`."""

    format: Literal[1] = 1
    sha256: str
    """Checksum of `index.safetensors`."""
    bytes: int
    """Size of `index.safetensors` in bytes."""
    shards: tuple[Shard, ...]
    """Shards in ascending order."""


def committed_shards(url: str, owner: str | None = None) -> dict[int, Shard]:
    """Return the committed shards in ascending order, read from the index if it is valid, otherwise from all markers.

    Raises:
        DamagedError: there is no valid index, and a marker is corrupt.
    """
    current().listings.pop(url, None)
    index = read_index(url, owner=owner)
    if index is not None:
        current().listings[url] = index.sha256
    return shards_by_markers(url, owner) if index is None else {shard.shard: shard for shard in index.shards}


def open_samples(
    url: str, cache: ShardCache, corruption: Corruption, resolved: bool = False
) -> tuple[dict[int, Shard], SampleTable]:
    """Return a dataset's committed shards and sample table, read from the index if it is valid, otherwise from all
    shards.

    Args:
        resolved: whether `committed_shards` has already listed the files. If so, the files are not listed again;
            listing ten thousand shards on S3 takes seconds.

    Raises:
        UserError: see `read_samples`.
    """
    index = read_index(url, current().listings.get(url, "") if resolved else "")
    if index is not None:
        file = ShardFile(storage.join(url, COLUMNS), index.bytes, index.sha256)
        try:
            samples = _parse(cache.mapped(file), index)
        except storage.UnreachableError:
            raise
        except (UnreadableImageError, OSError, ValueError, LookupError, TypeError, OverflowError) as error:
            _report_unusable(url, error)
        else:
            return {shard.shard: shard for shard in index.shards}, samples
    return read_samples(url, corruption)


def index_set(url: str, owner: str = storage.NOBODY) -> None:
    """Write the index of a finished dataset, unless a table is corrupt."""
    try:
        shards, samples = read_samples(url, Corruption(0))
    except storage.UnreachableError:
        raise
    except UserError:  # raised again by the next reader of the dataset
        return
    write_index(url, list(shards.values()), samples, owner)


def write_index(url: str, shards: list[Shard], samples: SampleTable, owner: str = storage.NOBODY) -> None:
    """Write the index that `open_samples` reads; `owner` identifies the dataset."""
    from safetensors.numpy import save

    data = save({column.name: getattr(samples, column.name) for column in fields(SampleTable)})
    storage.write_bytes(storage.join(url, COLUMNS), data)
    index = Index(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), shards=tuple(shards))
    storage.write_with_checksum(storage.join(url, INDEX), index.model_dump_json().encode(), owner=owner)


def forget_index(url: str) -> None:
    """Remove a dataset's index before the dataset's shards change."""
    storage.remove(storage.join(url, INDEX))


def read_index(url: str, verified: str = "", owner: str | None = None) -> Index | None:
    """Read a dataset's index; return None if the index is missing or unusable, or does not match the listed files.

    Args:
        verified: checksum of an index that has already been compared with a listing; its files are not listed again.
        owner: expected owner ID; see `storage.checksums`.
    """
    try:
        index = storage.read_document(storage.join(url, INDEX), Index, "remove it", owner)
    except storage.UnreachableError:
        raise
    except UserError as error:
        _report_unusable(url, error)
        return None
    if index is None or index.sha256 == verified:
        return index
    sizes = storage.sizes(url, listing_prefixes([shard_name(shard.shard) for shard in index.shards]))
    if marked_shards(sizes) != [shard.shard for shard in index.shards] or sizes.get(COLUMNS) != index.bytes:
        return None
    matches = all(
        sizes.get(shard_name(shard.shard)) == shard.bytes and table_name(shard.shard) in sizes for shard in index.shards
    )
    return index if matches else None


def listing_prefixes(names: Sequence[str], limit: int = 1000) -> list[str]:
    """Return disjoint prefixes that cover all file names, with about `limit` shards each, for parallel listings."""
    prefixes, groups = [], [("", names)]
    while groups:
        prefix, group = groups.pop()
        if len(group) <= limit or len(prefix) == 4:  # names begin with five or more digits
            prefixes.append(prefix)
            continue
        for digit in digits:
            longer = prefix + digit
            groups.append((longer, [name for name in group if name.startswith(longer)]))
    return prefixes if len(prefixes) == 1 else [INDEX, COLUMNS, *prefixes]


def _parse(data: bytes | mmap.mmap, index: Index) -> SampleTable:
    """Parse a safetensors file into column views; the safetensors library would copy the columns.

    Raise a ValueError if the columns do not match the shards, i.e. if a row or offset could be out of range.
    """
    view = memoryview(data)
    begin = 8 + int.from_bytes(view[:8], "little")
    header, columns = json.loads(bytes(view[8:begin])), {}
    for name in (column.name for column in fields(SampleTable)):
        if (header[name]["dtype"] == "I64") != (name in SIGNED):
            raise ValueError(f"column {name} has an unexpected type")
        dtype, (count,) = np.dtype(_DTYPES[header[name]["dtype"]]), header[name]["shape"]
        columns[name] = np.frombuffer(view, dtype, count, begin + header[name]["data_offsets"][0])
    samples = SampleTable(**columns)
    rows = sum(shard.images for shard in index.shards)
    lengths = {len(getattr(samples, name)) for name in (*SIX, "by_label")}
    numbers = np.array([shard.shard for shard in index.shards])
    if not rows or lengths != {rows} or samples.by_label.max() >= rows:
        raise ValueError(f"the columns do not match {rows} images")
    if samples.size.max() > max(shard.bytes for shard in index.shards):
        raise ValueError("an image is larger than its shard")
    if not np.isin(np.unique(samples.shard), numbers).all():
        raise ValueError("the index contains an unknown shard")
    starts = samples.starts.astype(np.int64)
    if len(starts) != len(samples.classes) + 1 or (np.diff(starts) < 1).any() or (starts[0], starts[-1]) != (0, rows):
        raise ValueError("the classes do not match the images")
    return samples


def _report_unusable(url: str, error: Exception) -> None:
    reason = str(error).partition(";")[0]
    print_message(f"{url}: unusable index ({reason}); reading all shards instead; remove {INDEX} to avoid this warning")
