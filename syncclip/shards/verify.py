"""The check of a whole set: every byte is read and compared with marker and table."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from syncclip import storage
from syncclip.shards.images import UnreadableImageError, decode_image
from syncclip.shards.markers import ShardStats, committed, shard_name, stats_name, table_name
from syncclip.shards.tables import faults, parse_table

_FILE = re.compile(r"([0-9]{5,})(\.tar|\.parquet|_stats\.json)")


class Problem(NamedTuple):
    """Something wrong with a shard, described in a sentence."""

    shard: int
    sentence: str


def problems(url: str, checked: Callable[[], object] = lambda: None, owner: str | None = None) -> Iterator[Problem]:
    """Read a whole set, one shard in memory at a time, and report what is wrong with it.

    Compared with each other: sha256 of the tar and of the table, the tar's members and their names, the table with its
    offsets, the counts per class, labels, texts and provenance, indices that are there twice; and every image must
    decode. A marker must have the seal that it was written with.

    Args:
        checked: called before each shard.
        owner: identity that the shards must have, see `storage.seals`; None: all the same.

    Raises:
        UserError: a marker is of a newer format than this version reads, or the place can't be read.
    """
    damaged: dict[int, str] = {}
    exist = committed(url, lambda shard, error: damaged.update({shard: str(error)}), owner)
    begun: dict[int, str] = {}
    for name in storage.sizes(url):
        if (match := _FILE.fullmatch(name)) and int(match[1]) not in {*exist, *damaged}:
            begun.setdefault(int(match[1]), f"{int(match[1]):05d}.tar")
    for shard, sentence in damaged.items():
        yield Problem(shard, f"{stats_name(shard)}: {sentence}")
    for shard, name in sorted(begun.items()):
        yield Problem(shard, f"{name}: no valid marker, so this shard does not exist; the next `synth` makes it anew")
    shard_of: dict[int, int] = {}
    for shard, stats in exist.items():
        checked()
        archive = storage.read_bytes(storage.join(url, shard_name(shard)), sha256=stats.sha256)
        try:
            data = storage.read_bytes(storage.join(url, table_name(shard)), sha256=stats.table_sha256)
            rows = parse_table(data, stats.table_sha256).to_pylist()
        except storage.UnreachableError:
            raise
        except (OSError, ValueError) as error:
            yield Problem(shard, f"{table_name(shard)}: unreadable table: {error}")
            if hashlib.sha256(archive).hexdigest() != stats.sha256:
                yield Problem(shard, _exchanged(shard))
            continue
        wrong = list(_wrong(shard, archive, stats, rows))
        yield from (Problem(shard, sentence) for sentence in wrong)
        for row in () if wrong else rows:
            if (other := shard_of.setdefault(row["index"], shard)) != shard:
                yield Problem(shard, f"{shard_name(shard)}: sample {row['index']} is in {shard_name(other)} too")


def _exchanged(shard: int) -> str:
    return f"{shard_name(shard)}: sha256 differs from its marker's; the tar was damaged or exchanged"


def _wrong(shard: int, archive: bytes, stats: ShardStats, rows: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with a tar, one sentence each."""
    name = shard_name(shard)
    if hashlib.sha256(archive).hexdigest() != stats.sha256:
        yield _exchanged(shard)
    if len(rows) != stats.count or Counter(row["label"] for row in rows) != Counter(stats.per_class):
        yield f"{name}: the table's counts differ from the marker's"
    yield from faults(name, io.BytesIO(archive), rows)
    for row in rows:
        offset = row["jpg_offset"]
        try:
            decode_image(archive[offset : offset + row["jpg_size"]], f"{name}:{row['key']}.jpg")
        except UnreadableImageError as error:
            yield str(error)
