"""The check of a whole set: every byte is read and compared with marker and table."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from syncclip import storage
from syncclip.shards.images import UnreadableImageError, decode_image
from syncclip.shards.markers import ShardStats, committed, read_table, shard_name, table_name
from syncclip.shards.tars import open_tar

_FILE = re.compile(r"(\d{5,})(\.tar|\.parquet|_stats\.json)")
_MEMBER = re.compile(r"\d{9,}\.(cls|jpg|json|txt)")

MEMBERS = ("cls", "jpg", "json", "txt")
"""Members of a sample; .json only where there is provenance."""


class Problem(NamedTuple):
    """Something wrong with a shard, described in a sentence."""

    shard: int
    sentence: str


def problems(url: str) -> Iterator[Problem]:
    """Read a whole set, one shard in memory at a time, and report what is wrong with it.

    Compared with each other: sha256 of the tar, its members and their names, the table with its offsets, the counts per
    class, labels, texts and provenance, indices that are there twice; and every image must decode.

    Raises:
        UserError: a marker is of a newer format than this version reads, or the place can't be read.
    """
    exist = committed(url)
    begun: dict[int, str] = {}
    for name in storage.sizes(url):
        if (match := _FILE.fullmatch(name)) and int(match[1]) not in exist:
            begun.setdefault(int(match[1]), f"{int(match[1]):05d}.tar")
    for shard, name in sorted(begun.items()):
        yield Problem(shard, f"{name}: no valid marker, so this shard does not exist; the next `synth` makes it anew")
    owner: dict[int, int] = {}
    for shard, stats in exist.items():
        try:
            rows = read_table(url, shard).to_pylist()
        except storage.UnreachableError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            yield Problem(shard, f"{table_name(shard)}: unreadable table: {error}")
            continue
        archive = storage.read_bytes(storage.join(url, shard_name(shard)))
        wrong = list(_wrong(shard_name(shard), archive, stats, rows))
        yield from (Problem(shard, sentence) for sentence in wrong)
        for row in () if wrong else rows:
            if (other := owner.setdefault(row["index"], shard)) != shard:
                yield Problem(shard, f"{shard_name(shard)}: sample {row['index']} is in {shard_name(other)} too")


def _wrong(name: str, archive: bytes, stats: ShardStats, rows: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with a tar, one sentence each."""
    if hashlib.sha256(archive).hexdigest() != stats.sha256:
        yield f"{name}: sha256 differs from its marker's; the tar was damaged or exchanged"
    if len(rows) != stats.count or Counter(row["label"] for row in rows) != Counter(stats.per_class):
        yield f"{name}: the table's counts differ from the marker's"
    places: dict[str, tuple[int, int]] = {}
    texts: dict[str, str] = {}
    try:
        with open_tar(io.BytesIO(archive)) as tar:
            for member in tar:
                if not member.isfile() or not _MEMBER.fullmatch(member.name):
                    yield f"{name}: foreign member {member.name!r}"
                places[member.name] = (member.offset_data, member.size)
                if member.isfile() and not member.name.endswith(".jpg") and (file := tar.extractfile(member)):
                    texts[member.name] = file.read().decode(errors="replace")
    except (tarfile.TarError, OSError) as error:
        yield f"{name}: corrupt tar: {error}"
        return
    wanted = {f"{row['key']}.{kind}" for row in rows for kind in MEMBERS if kind != "json" or row["provenance"] != "{}"}
    if wanted != set(places):
        yield f"{name}: {len(wanted ^ set(places))} members are missing or not in the table"
    for row in rows:
        described = {"cls": str(row["label"]), "txt": row["text"], "json": row["provenance"]}
        if any(texts.get(f"{row['key']}.{kind}", "{}") != text for kind, text in described.items()):
            yield f"{name}: sample {row['key']} is described otherwise in the table"
        offset, size = row["jpg_offset"], row["jpg_size"]
        if places.get(f"{row['key']}.jpg") != (offset, size):
            yield f"{name}: the table's offset of {row['key']}.jpg is wrong"
        else:
            try:
                decode_image(archive[offset : offset + size], f"{name}:{row['key']}.jpg")
            except UnreadableImageError as error:
                yield str(error)
