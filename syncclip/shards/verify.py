"""Full verification of a sharded dataset: every byte is compared with the markers and tables."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from syncclip import storage
from syncclip.shards.images import UnreadableImageError, decode_image
from syncclip.shards.markers import SHARD_FILE, ShardStats, committed, shard_name, stats_name, table_name
from syncclip.shards.tables import parse_table
from syncclip.shards.untrusted_tars import open_tar

MEMBERS = ("cls", "jpg", "json", "txt")
"""Extensions of a sample's tar members; samples without provenance have no .json member."""
_MEMBER = re.compile(r"\d{9,}\.(cls|jpg|json|txt)")


class Problem(NamedTuple):
    """A defect in a shard."""

    shard: int
    sentence: str


class ShardCheck(NamedTuple):
    """Result of verifying a shard: a message for each defect, and the sample indices of a shard without defects.

    Consecutive indices are stored as ranges [start, stop).
    """

    defects: list[str]
    samples: list[tuple[int, int]]


Checks = Callable[[Callable[[ShardStats], ShardCheck], Iterable[ShardStats]], Iterable[ShardCheck]]
"""Applies a function to shards in order, such as `map`."""


def problems(
    url: str, checked: Callable[[], object] = lambda: None, owner: str | None = None, in_order: Checks = map
) -> Iterator[Problem]:
    """Verify a dataset and yield its defects, with only one shard in memory at a time.

    Checksums and class counts must be correct, sample indices must be unique, and every image must be decodable. The
    members of each tar must match the offsets, labels, texts and provenance in the table.

    Args:
        checked: function called after each shard is verified.
        owner: expected owner ID of the shards (see `storage.checksums`); by default, the first shard's owner.
        in_order: map that verifies the shards, possibly in several processes.
    """
    corrupt: dict[int, str] = {}
    existing = committed(url, lambda shard, error: corrupt.update({shard: str(error)}), owner, stored=False)
    uncommitted: set[int] = set()
    for name in storage.sizes(url):
        if (match := SHARD_FILE.fullmatch(name)) and int(match[1]) not in {*existing, *corrupt}:
            uncommitted.add(int(match[1]))
    for shard, sentence in corrupt.items():
        yield Problem(shard, f"{stats_name(shard)}: {sentence}")
    for shard in sorted(uncommitted):
        yield Problem(
            shard,
            f"{shard_name(shard)}: the shard is ignored, since it has no valid marker; run `syncclip synth` again",
        )
    verified: list[tuple[int, int, int]] = []  # disjoint ranges of samples, ascending, with their shards
    for shard, check in zip(existing, in_order(partial(check_shard, url), existing.values()), strict=True):
        checked()
        yield from (Problem(shard, sentence) for sentence in check.defects)
        for start, stop in check.samples:
            first = bisect_right(verified, start, key=lambda samples: samples[1])
            while start < stop:
                other = verified[first] if first < len(verified) else (stop, stop, shard)
                if start < other[0]:
                    verified.insert(first, (start, min(stop, other[0]), shard))
                for sample in range(max(start, other[0]), min(stop, other[1])):
                    yield Problem(shard, f"{shard_name(shard)}: sample {sample} is also in {shard_name(other[2])}")
                first, start = first + 1 + (start < other[0]), other[1]


def check_shard(url: str, stats: ShardStats) -> ShardCheck:
    """Compare a shard's tar and table with its marker and with each other, and decode its images."""
    shard = stats.shard
    archive = storage.read_bytes(storage.join(url, shard_name(shard)), sha256=stats.sha256)
    try:
        data = storage.read_bytes(storage.join(url, table_name(shard)), sha256=stats.table_sha256)
        rows = parse_table(data, stats.table_sha256).to_pylist()
    except storage.UnreachableError:
        raise
    except (OSError, ValueError) as error:
        defects = [f"{table_name(shard)}: unreadable table: {error}"]
        damaged = hashlib.sha256(archive).hexdigest() != stats.sha256
        return ShardCheck(defects + [_mismatch(shard)] * damaged, [])
    defects = list(_defects(shard, archive, stats, rows))
    samples: list[tuple[int, int]] = []
    for index in () if defects else sorted({row["index"] for row in rows}):
        if samples and samples[-1][1] == index:
            samples[-1] = (samples[-1][0], index + 1)
        else:
            samples.append((index, index + 1))
    return ShardCheck(defects, samples)


def _mismatch(shard: int) -> str:
    return f"{shard_name(shard)}: its checksum does not match; the tar is corrupt or belongs to a different shard"


def _defects(shard: int, archive: bytes, stats: ShardStats, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a message for each defect in a tar."""
    name = shard_name(shard)
    if hashlib.sha256(archive).hexdigest() != stats.sha256:
        yield _mismatch(shard)
    if len(rows) != stats.count or Counter(row["label"] for row in rows) != Counter(stats.per_class):
        yield f"{name}: the table and the marker have different sample counts"
    yield from _differences(name, archive, rows)
    for row in rows:
        offset = row["jpg_offset"]
        try:
            decode_image(archive[offset : offset + row["jpg_size"]], f"{name}:{row['key']}.jpg")
        except UnreadableImageError as error:
            yield str(error)


def _differences(name: str, archive: bytes, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a message for each difference between a tar and its table."""
    ranges: dict[str, tuple[int, int]] = {}
    texts: dict[str, str] = {}
    try:
        with open_tar(io.BytesIO(archive)) as tar:
            for member in tar:
                if not member.isfile() or not _MEMBER.fullmatch(member.name):
                    yield f"{name}: unexpected member {member.name!r}"
                ranges[member.name] = (member.offset_data, member.size)
                if member.isfile() and not member.name.endswith(".jpg") and (text := tar.extractfile(member)):
                    texts[member.name] = text.read().decode(errors="replace")
    except (tarfile.TarError, OSError) as error:
        yield f"{name}: corrupt tar: {error}"
        return
    expected = {f"{row['key']}.{ext}" for row in rows for ext in MEMBERS if ext != "json" or row["provenance"] != "{}"}
    images_only = {f"{row['key']}.jpg" for row in rows} == set(ranges)
    if expected != set(ranges) and not images_only:
        yield f"{name}: {len(expected ^ set(ranges))} members are missing from the tar or from its table"
    for row in rows:
        described = {"cls": str(row["label"]), "txt": row["text"], "json": row["provenance"]}
        if not images_only and any(
            texts.get(f"{row['key']}.{extension}", "{}") != text for extension, text in described.items()
        ):
            yield f"{name}: the label, text or provenance of sample {row['key']} differs from the table"
        if ranges.get(f"{row['key']}.jpg") != (row["jpg_offset"], row["jpg_size"]):
            yield f"{name}: the table contains the wrong offset or size for {row['key']}.jpg"
