"""The index of a finished set: what its markers and tables tell, in two files, so that a training reads no others.

`index.safetensors` holds the columns of `SampleTable`, which are mapped, not read. `index.json`, written last, holds
their digest and what the shards' markers tell. An index that doesn't fit the folder's listing (a shard was added,
removed or cut short since) or is damaged is as if it weren't there: then every marker and table is read.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Sequence
from dataclasses import fields
from string import digits
from typing import Literal

import numpy as np

from syncclip import storage
from syncclip.core.session import current
from syncclip.core.settings import Settings, UserError
from syncclip.runtime.progress import say
from syncclip.shards.cache import ShardCache, ShardFile
from syncclip.shards.images import Corruption, UnreadableImageError
from syncclip.shards.markers import Shard, marked, shard_name, table_name
from syncclip.shards.samples import SIX, SampleTable, read_samples, shards_by_markers

INDEX = "index.json"
COLUMNS = "index.safetensors"
_TYPES = {"U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I64": "<i8"}
"""Of safetensors, and numpy's."""
SIGNED = ("label", "classes")
"""Columns whose numbers a dataset may choose; no others can be negative."""


class Index(Settings):
    """Content of `index.json`."""

    format: Literal[1] = 1
    sha256: str
    """Of `index.safetensors`."""
    bytes: int
    """Of `index.safetensors`."""
    shards: tuple[Shard, ...]
    """In the order of their numbers."""


def committed_shards(url: str, owner: str | None = None) -> dict[int, Shard]:
    """Shard -> what its marker tells, of the shards that exist, in order: by the index, or else by every marker.

    Args:
        owner: identity that they must have, see `storage.seals`.

    Raises:
        DamagedError: there is no index, and a marker is not as it was written.
    """
    current().listings.pop(url, None)
    index = read_index(url, owner=owner)
    if index is not None:
        current().listings[url] = index.sha256
    return shards_by_markers(url, owner) if index is None else {one.shard: one for one in index.shards}


def open_samples(
    url: str, cache: ShardCache, corruption: Corruption, resolved: bool = False
) -> tuple[dict[int, Shard], SampleTable]:
    """The shards of a set, and where its images are: by the index, or else by every marker and table.

    Args:
        resolved: whether `committed_shards` was asked for this run, here or where it was resolved. The listing of ten
            thousand shards, seconds on S3, isn't asked for again then.

    Raises:
        UserError: see `read_samples`.
    """
    index = read_index(url, current().listings.get(url, "") if resolved else "")
    if index is not None:
        file = ShardFile(storage.join(url, COLUMNS), index.bytes, index.sha256)
        try:
            samples = _parse(cache.mapped(file))
            _check(samples, index)
        except storage.UnreachableError:
            raise
        except (UnreadableImageError, OSError, ValueError, LookupError, TypeError, OverflowError) as error:
            _say_useless(url, error)
        else:
            return {one.shard: one for one in index.shards}, samples
    return read_samples(url, corruption)


def index_set(url: str, owner: str = storage.NOBODY) -> None:
    """Write the index of a set to which nothing will be added for now; nothing happens where a table is damaged."""
    try:
        shards, samples = read_samples(url, Corruption(0))
    except storage.UnreachableError:
        raise
    except UserError:  # whoever reads the set is told
        return
    write_index(url, list(shards.values()), samples, owner)


def write_index(url: str, shards: list[Shard], samples: SampleTable, owner: str = storage.NOBODY) -> None:
    """Write what `open_samples` will read; `owner` is the identity of what the set belongs to."""
    from safetensors.numpy import save

    data = save({one.name: getattr(samples, one.name) for one in fields(SampleTable)})
    storage.write_bytes(storage.join(url, COLUMNS), data)
    index = Index(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), shards=tuple(shards))
    storage.write_sealed(storage.join(url, INDEX), index.model_dump_json().encode(), owner=owner)


def forget_index(url: str) -> None:
    """Remove a set's index, before shards are written."""
    storage.remove(storage.join(url, INDEX))


def read_index(url: str, known: str = "", owner: str | None = None) -> Index | None:
    """The index of a set, if there is one that fits its files: a document and a listing, however large the set is.

    Args:
        known: digest of an index that is known to fit.
        owner: identity that it must have, see `storage.seals`.
    """
    try:
        index = storage.read_document(storage.join(url, INDEX), Index, "remove it", owner)
    except storage.UnreachableError:
        raise
    except UserError as error:
        _say_useless(url, error)
        return None
    if index is None or index.sha256 == known:
        return index
    sizes = storage.sizes(url, beginnings([shard_name(one.shard) for one in index.shards]))
    if marked(sizes) != [one.shard for one in index.shards] or sizes.get(COLUMNS) != index.bytes:
        return None
    fits = all(sizes.get(shard_name(one.shard)) == one.bytes and table_name(one.shard) in sizes for one in index.shards)
    return index if fits else None


def beginnings(names: Sequence[str], most: int = 1000) -> list[str]:
    """Beginnings of the names of shards' files and of the index: each name has one, and few have the same.

    Args:
        names: of shards.
        most: so many have the same; more only where they share four digits.
    """

    def parted(begin: str, names: Sequence[str]) -> list[str]:
        if len(names) <= most or len(begin) == 4:  # every name begins with five digits at least
            return [begin]
        return [
            one for digit in digits for one in parted(begin + digit, [n for n in names if n.startswith(begin + digit)])
        ]

    found = parted("", names)
    return found if len(found) == 1 else [INDEX, COLUMNS, *found]


def _parse(data: bytes | mmap.mmap) -> SampleTable:
    """The columns in a safetensors file, which stay where they are: the library would copy them."""
    view = memoryview(data)
    begin = 8 + int.from_bytes(view[:8], "little")
    header, columns = json.loads(bytes(view[8:begin])), {}
    for name in (one.name for one in fields(SampleTable)):
        if (header[name]["dtype"] == "I64") != (name in SIGNED):
            raise ValueError(f"its {name} are of another type")
        kind, (count,) = np.dtype(_TYPES[header[name]["dtype"]]), header[name]["shape"]
        columns[name] = np.frombuffer(view, kind, count, begin + header[name]["data_offsets"][0])
    return SampleTable(**columns)


def _check(samples: SampleTable, index: Index) -> None:
    """Refuse columns that can't be those of a set with these shards, lest a stranger's lead into another's memory.

    Raises:
        ValueError: they are of other lengths, name rows or shards that aren't there, or images larger than a shard.
    """
    rows = sum(one.images for one in index.shards)
    lengths = {len(getattr(samples, name)) for name in (*SIX, "by_label")}
    numbers = np.array([one.shard for one in index.shards])
    if not rows or lengths != {rows} or samples.by_label.max() >= rows:
        raise ValueError(f"its columns are not those of {rows} images")
    if samples.size.max() > max(one.bytes for one in index.shards):
        raise ValueError("it tells of images that are larger than their shard")
    if not np.isin(np.unique(samples.shard), numbers).all():
        raise ValueError("it names a shard that isn't there")
    starts = samples.starts.astype(np.int64)
    if len(starts) != len(samples.classes) + 1 or (np.diff(starts) < 1).any() or (starts[0], starts[-1]) != (0, rows):
        raise ValueError("its classes are not those of its images")


def _say_useless(url: str, error: Exception) -> None:
    reason = str(error).partition(";")[0]
    say(f"{url}: its index is of no use ({reason}), so every marker and table is read; remove {INDEX}, a mere shortcut")
