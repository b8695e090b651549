"""File names of a sharded dataset, commit markers, and the list of committed shards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from os.path import commonprefix
from string import digits
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.validation_errors import first_error
from syncclip.storage.checksums import NOBODY

FORMAT = 1
CHUNK = 256
"""Number of markers to read concurrently."""
GROUP = 1000
"""Number of shards whose markers are also stored together, so that a large dataset is opened with few requests."""

LISTED = (*digits, "markers-")
"""Prefixes of the names of all shards' files and stored markers, for concurrent listings."""
MAX_LISTED_AGAIN = 100
"""Maximum number of incomplete shards to list again one by one."""

Report = Callable[[int, storage.DamagedError], None]
MARKER = re.compile(r"([0-9]{5,18})_stats\.json")
SHARD_FILE = re.compile(r"([0-9]{5,18})(\.tar|\.parquet|_stats\.json)")
"""Name of a shard's file."""
GROUPED = re.compile(r"markers-([0-9]{5,18})\.json")
"""Name of a file with the markers of a group."""


class ShardStats(BaseModel):
    """A shard's commit marker."""

    model_config = ConfigDict(frozen=True)

    shard: int
    count: int  # number of samples
    bytes: int  # size of the tar, bytes
    sha256: str  # checksum of the tar
    table_sha256: str
    per_class: dict[int, int]  # label -> number of samples
    rejects: dict[str, int] = {}  # reason -> number of rejected images
    seconds: float = 0.0  # wall-clock time to generate the shard
    owner: str = NOBODY  # owner ID: plan or dataset
    format: int = FORMAT


class MarkerGroup(BaseModel):
    """Copies of the markers of a group's shards, in ascending order."""

    markers: tuple[ShardStats, ...]


class Shard(NamedTuple):
    """Fields of a committed shard's marker that training requires."""

    shard: int
    images: int
    bytes: int
    sha256: str
    table_sha256: str


def shard_name(shard: int) -> str:
    """Return the file name of a shard's tar, such as `00000.tar`."""
    return f"{shard:05d}.tar"


def table_name(shard: int) -> str:
    """Return the file name of a shard's table, such as `00000.parquet`."""
    return f"{shard:05d}.parquet"


def stats_name(shard: int) -> str:
    """Return the file name of a shard's marker, such as `00000_stats.json`."""
    return f"{shard:05d}_stats.json"


FILES = shard_name, table_name, stats_name
"""Functions that return the names of a shard's files."""


def sample_key(index: int) -> str:
    """Return the name of a sample's tar members without extension, such as `000000017`."""
    return f"{index:09d}"


def committed(
    url: str, report: Report | None = None, owner: str | None = None, stored: bool = True
) -> dict[int, ShardStats]:
    """Read the markers of all committed shards in ascending order; the `markers` function uses less memory."""
    return {stats.shard: stats for stats in markers(url, report, owner, stored)}


def markers(
    url: str,
    report: Report | None = None,
    owner: str | None = None,
    stored: bool = True,
    prefixes: Sequence[str] = LISTED,
) -> Iterator[ShardStats]:
    """Yield the markers of the committed shards in ascending order, or nothing if the folder does not exist.

    A shard is committed if it has a marker and a table, and if its tar has the size recorded in the marker. A corrupt
    or replaced marker raises an error, since its images would otherwise be silently lost. The function lists the files
    once and keeps up to `GROUP` markers in memory.

    Args:
        report: function called with the shard number and error for each corrupt marker; the shard is then skipped.
            If None, the error is raised.
        owner: expected owner ID of the shards (see `storage.checksums`); by default, the first shard's owner.
        stored: whether to read the stored markers of groups instead of each shard's own marker.
        prefixes: prefixes of the names of the files to list, by default of all shards' files.

    Raises:
        UserError: a marker has a newer format than this version supports.
        DamagedError: a marker is corrupt.
    """
    sizes, listed_again = storage.sizes(url, prefixes), False
    if not storage.is_local(url):  # list an object store again if the first listing lacks a shard's file
        counts = Counter(match[1] for name in sizes if (match := SHARD_FILE.fullmatch(name)))
        if incomplete := [number for number, files in counts.items() if files < len(FILES)]:
            sizes = storage.sizes(url, incomplete if len(incomplete) <= MAX_LISTED_AGAIN else prefixes) | sizes
    numbers, first_owner = marked_shards(sizes), ""
    for group, members in groupby(numbers, key=lambda shard: shard // GROUP):
        grouped = _read_group(url, group) if stored and group_name(group) in sizes else {}
        for shard, stats in _read(url, list(members), grouped, report, owner):
            name = stats_name(shard)
            if stats.format > FORMAT:
                raise UserError(
                    f"{url}/{name}: format {stats.format} is newer than the supported format {FORMAT}; upgrade syncclip"
                )
            first_owner = first_owner or stats.owner
            if stats.shard != shard or stats.owner != first_owner:
                other = f"shard {stats.shard}" if stats.shard != shard else "a different dataset than earlier shards"
                mismatch = storage.DamagedError(f"{url}/{name} belongs to {other}; restore the original file")
                if report is None:
                    raise mismatch
                report(shard, mismatch)
                continue
            if sizes.get(shard_name(shard)) != stats.bytes and not (listed_again or storage.is_local(url)):
                sizes, listed_again = storage.sizes(url, prefixes), True
            if sizes.get(shard_name(shard)) == stats.bytes and table_name(shard) in sizes:
                yield stats


def markers_without_listing(url: str, shards: range, owner: str) -> Iterator[ShardStats]:
    """Yield the markers of committed shards among `shards`, without listing the files of complete groups.

    A job that resumes a large dataset on an object store saves the listing of hundreds of thousands of files. The files
    of these groups existed when their markers were stored, and `markers` checks them before the job ends.
    """
    groups = range(shards.start // GROUP, -(-shards.stop // GROUP))
    stored = {} if storage.is_local(url) else _read_groups(url, groups, owner)
    others = []
    for group in groups:
        members = range(max(GROUP * group, shards.start), min(GROUP * (group + 1), shards.stop))
        if len(complete := [stats for stats in stored.get(group, ()) if stats.shard in members]) == len(members):
            yield from complete
        else:
            others.append(group)
    if others:
        ends = [[f"{GROUP * group:05d}", f"{GROUP * group + GROUP - 1:05d}"] for group in others]
        prefixes = [*map(commonprefix, ends)] if len(others) <= MAX_LISTED_AGAIN else LISTED
        listed = markers(url, owner=owner, prefixes=[*dict.fromkeys(prefixes), *map(group_name, others)])
        yield from (stats for stats in listed if stats.shard in shards and stats.shard // GROUP in {*others})


def _read_groups(url: str, groups: Iterable[int], owner: str) -> dict[int, tuple[ShardStats, ...]]:
    """Read the stored markers of groups concurrently; groups that are missing or corrupt are omitted."""
    names = {storage.join(url, group_name(group)): group for group in groups}
    texts = storage.read_many(list(names), lambda *_: None, owner)
    stored = {}
    for name, text in texts.items():
        with suppress(ValidationError):
            stored[names[name]] = MarkerGroup.model_validate_json(text).markers
    return stored


def group_name(group: int) -> str:
    """Return the name of the file with the markers of shards `GROUP * group` to `GROUP * (group + 1) - 1`."""
    return f"markers-{group:05d}.json"


def write_group(url: str, group: int, owner: str) -> None:
    """Store the markers of a group's committed shards together, in addition to each shard's own marker."""
    shards = range(GROUP * group, GROUP * (group + 1))
    stored = [stats for _, stats in _read(url, shards, {}, None, owner)]
    storage.write_document(storage.join(url, group_name(group)), MarkerGroup(markers=tuple(stored)), owner)


def write_missing_groups(url: str, shards: range, owner: str) -> None:
    """Store the markers of all groups of a complete dataset that are not stored yet, if there are several groups."""
    if len(shards) > GROUP:
        stored = storage.sizes(url, ["markers-"])
        for group in range(shards[-1] // GROUP + 1):
            if group_name(group) not in stored:
                write_group(url, group, owner)


def forget_group(url: str, shard: int) -> None:
    """Remove the stored markers of a shard's group before the shard changes."""
    storage.remove(storage.join(url, group_name(shard // GROUP)))


def _read_group(url: str, group: int) -> dict[int, ShardStats]:
    """Read the stored markers of a group; {} if they can't be read, since each shard has its own marker."""
    try:
        content = storage.read_document(storage.join(url, group_name(group)), MarkerGroup, "remove it")
    except storage.UnreachableError:
        raise
    except UserError:  # reported by `verify`
        return {}
    return {stats.shard: stats for stats in content.markers} if content is not None else {}


def _read(
    url: str, shards: Sequence[int], grouped: Mapping[int, ShardStats], report: Report | None, owner: str | None
) -> Iterator[tuple[int, ShardStats]]:
    """Yield the markers of shards, unless they are missing or corrupt; those in `grouped` are not read again."""
    folder = storage.join(url, "")
    grouped = {shard: stats for shard, stats in grouped.items() if owner in (None, stats.owner)}
    for first in range(0, len(shards), CHUNK):
        chunk = shards[first : first + CHUNK]
        urls = {folder + stats_name(shard): shard for shard in chunk if shard not in grouped}
        report_url = None if report is None else partial(_report, urls, report)
        texts = storage.read_many(list(urls), report_url, owner) if urls else {}
        for shard in chunk:
            if shard in grouped:
                yield shard, grouped[shard]
            elif (text := texts.get(folder + stats_name(shard))) is not None:
                try:
                    yield shard, ShardStats.model_validate_json(text)
                except ValidationError as error:
                    reason = first_error(error)
                    raise UserError(
                        f"{url}/{stats_name(shard)}: the marker is not supported by this version ({reason}); upgrade "
                        "syncclip"
                    ) from error


def marked_shards(names: Iterable[str]) -> list[int]:
    """Return the numbers of all shards with a marker among the file names, in ascending order."""
    return sorted({int(match[1]) for name in names if (match := MARKER.fullmatch(name))})


def _report(urls: Mapping[str, int], report: Report, url: str, error: storage.DamagedError) -> None:
    report(urls[url], error)
