"""Names of a set's files, the commit marker, and which shards exist; how a tar is laid out is `writer`'s."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from syncclip import storage
from syncclip.core.settings import UserError, first_complaint
from syncclip.storage.checksums import NOBODY

FORMAT = 1
CHUNK = 256
"""Markers that are read at once."""

Report = Callable[[int, storage.DamagedError], None]
_MARKER = re.compile(r"([0-9]{5,18})_stats\.json")


class ShardStats(BaseModel):
    """The commit marker of one shard: what was written, and what it took."""

    model_config = ConfigDict(frozen=True)

    shard: int
    count: int  # samples in the tar
    bytes: int  # of the tar
    sha256: str  # of the tar
    table_sha256: str
    per_class: dict[int, int]  # label -> samples
    rejects: dict[str, int] = {}  # reason -> images that a filter sent back
    seconds: float = 0.0  # wall time of making the shard
    owner: str = NOBODY  # identity of the plan or dataset that it belongs to
    format: int = FORMAT


class Shard(NamedTuple):
    """What a training needs of a committed shard's marker."""

    shard: int
    images: int
    bytes: int
    sha256: str
    table_sha256: str

    @staticmethod
    def of(stats: ShardStats) -> Shard:
        """What is needed of a marker."""
        return Shard(stats.shard, stats.count, stats.bytes, stats.sha256, stats.table_sha256)


def shard_name(shard: int) -> str:
    """`00000.tar`."""
    return f"{shard:05d}.tar"


def table_name(shard: int) -> str:
    """`00000.parquet`."""
    return f"{shard:05d}.parquet"


def stats_name(shard: int) -> str:
    """`00000_stats.json`."""
    return f"{shard:05d}_stats.json"


def sample_key(index: int) -> str:
    """`000000017`: the name that the members of sample `index` share."""
    return f"{index:09d}"


def committed(url: str, report: Report | None = None, owner: str | None = None) -> dict[int, ShardStats]:
    """Shard -> marker of the shards that exist, in order; see `markers`, which needs less memory."""
    return {stats.shard: stats for stats in markers(url, report, owner)}


def markers(url: str, report: Report | None = None, owner: str | None = None) -> Iterator[ShardStats]:
    """The markers of the shards that exist, in order; none for a missing folder.

    A shard exists if it has a marker, its tar has the marker's byte count and its table is there. A marker that was
    changed, cut short or exchanged since is an error that names it, because its images would be lost or replaced
    silently. One listing, and `CHUNK` markers in memory.

    Args:
        report: called with number and error of a damaged marker, whose shard is then left out; None: the error is
            raised.
        owner: identity that the shards must have, see `storage.seals`; None: all the same.

    Raises:
        UserError: A marker is of a newer format than this version reads.
        DamagedError: A marker is not as it was written.
    """
    sizes, folder, asked_again = _listing(url), storage.join(url, ""), False
    there, first_owner = marked(sizes), ""
    for first in range(0, len(there), CHUNK):
        chunk = there[first : first + CHUNK]
        places = {folder + stats_name(shard): shard for shard in chunk}
        told = None if report is None else partial(_report, places, report)
        texts = storage.read_many(list(places), told, owner)
        for shard in chunk:
            name = stats_name(shard)
            if (text := texts.get(folder + name)) is None:
                continue
            try:
                stats = ShardStats.model_validate_json(text)
            except ValidationError as error:
                raise UserError(
                    f"{url}/{name} can't be read by this version of syncclip ({first_complaint(error)}); upgrade it"
                ) from error
            if stats.format > FORMAT:
                raise UserError(f"{url}/{name}: format {stats.format}, this syncclip reads up to {FORMAT}; upgrade it")
            first_owner = first_owner or stats.owner
            if stats.shard != shard or stats.owner != first_owner:
                what = f"shard {stats.shard}" if stats.shard != shard else "another set than the shards before it"
                exchanged = storage.DamagedError(f"{url}/{name} belongs to {what}: it was exchanged")
                if report is None:
                    raise exchanged
                report(shard, exchanged)
                continue
            if sizes.get(shard_name(shard)) != stats.bytes and not (asked_again or storage.is_local(url)):
                sizes, asked_again = storage.sizes(url), True
            if sizes.get(shard_name(shard)) == stats.bytes and table_name(shard) in sizes:
                yield stats


def marked(names: Iterable[str]) -> list[int]:
    """The shards of which there is a marker among a folder's files, ascending."""
    return sorted({int(match[1]) for name in names if (match := _MARKER.fullmatch(name))})


def _listing(url: str) -> dict[str, int]:
    """Name -> bytes of a folder's files. No checksum holds an answer of a store: where a shard lacks a file, it is
    asked again."""
    sizes = storage.sizes(url)
    if not storage.is_local(url):
        shards = {int(found[0]) for name in sizes if (found := re.match(r"\d{5,}", name))}
        if any(name(shard) not in sizes for shard in shards for name in (shard_name, table_name, stats_name)):
            return storage.sizes(url) | sizes
    return sizes


def _report(places: Mapping[str, int], report: Report, url: str, error: storage.DamagedError) -> None:
    report(places[url], error)
