"""Names of a set's files, the commit marker, which shards exist, and the check of a whole set."""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from syncclip import storage
from syncclip.settings import UserError
from syncclip.shards.images import UnreadableImageError, decode_image

FORMAT = 1
CHUNK = 256
"""Markers that are read at once."""
MEMBERS = ("cls", "jpg", "json", "txt")  # in the order in which they lie in the tar; .json only where it says anything
TABLE = pa.schema(
    [
        ("key", pa.string()),
        ("index", pa.int64()),
        ("label", pa.int64()),
        ("text", pa.string()),
        ("jpg_offset", pa.int64()),
        ("jpg_size", pa.int64()),
        ("provenance", pa.string()),  # JSON, the very bytes of the .json member
    ]
)

_MARKER = re.compile(r"(\d{5,})_stats\.json")
_MEMBER = re.compile(r"\d{9,}\.(cls|jpg|json|txt)")


class ShardStats(BaseModel):
    """The commit marker of one shard: what was written, and what it took."""

    model_config = ConfigDict(frozen=True)

    shard: int
    count: int  # samples in the tar
    bytes: int  # of the tar
    sha256: str  # of the tar
    per_class: dict[int, int]  # label -> samples
    rejects: dict[str, int] = {}  # reason -> images that a filter sent back
    seconds: float = 0.0  # wall time of making the shard
    format: int = FORMAT


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


def committed(url: str) -> dict[int, ShardStats]:
    """Shard -> marker of the shards that exist, in order; see `markers`, which needs less memory."""
    return {stats.shard: stats for stats in markers(url)}


def markers(url: str) -> Iterator[ShardStats]:
    """The markers of the shards that exist, in order; none for a missing folder.

    One exists if its marker parses, its tar has the marker's byte count and its table is there. Anything else (no
    marker, a cut-off one, a short tar) is as if it had never been written. One listing, and `CHUNK` markers in memory.

    Raises:
        UserError: A marker is of a newer format than this version reads.
    """
    sizes = storage.sizes(url)
    marked = sorted((int(match[1]), name) for name in sizes if (match := _MARKER.fullmatch(name)))
    for first in range(0, len(marked), CHUNK):
        chunk = marked[first : first + CHUNK]
        texts = storage.read_many([storage.join(url, name) for _, name in chunk])
        for shard, name in chunk:
            stats = _parse(texts.get(storage.join(url, name), b""))
            if stats is None or stats.shard != shard:
                continue
            if stats.format > FORMAT:
                raise UserError(f"{url}/{name}: format {stats.format}, this syncclip reads up to {FORMAT}; upgrade it")
            if sizes.get(shard_name(shard)) == stats.bytes and table_name(shard) in sizes:
                yield stats


def read_table(data: bytes) -> pa.Table:
    """The table of a shard from its bytes; pyarrow's errors where they are not one."""
    return pq.read_table(io.BytesIO(data), schema=TABLE)


def verify(url: str, images: bool = True) -> list[str]:
    """Read a whole set and say what is wrong with it, one sentence a problem; [] for a sound set.

    Held against each other: sha256 of the tar, its members and their names, the table with its offsets, the counts per
    class, indices that are there twice, and (if `images`) that every image decodes.
    """
    exist = committed(url)
    problems = [
        f"{name}: no valid marker, so this shard does not exist; the next `synth` makes it anew"
        for name in storage.sizes(url)
        if re.fullmatch(r"\d{5,}\.tar", name) and int(name[:-4]) not in exist
    ]
    owner: dict[int, int] = {}
    for shard, stats in exist.items():
        try:
            table = read_table(storage.read_bytes(storage.join(url, table_name(shard))))
        except (pa.ArrowException, OSError) as error:
            problems.append(f"{table_name(shard)}: unreadable table: {error}")
            continue
        problems += _problems_of_tar(storage.join(url, shard_name(shard)), stats, table, images)
        for index in table["index"].to_pylist():
            if owner.setdefault(index, shard) != shard:
                problems.append(f"{shard_name(shard)}: sample {index} is in {shard_name(owner[index])} too")
    return problems


def _problems_of_tar(url: str, stats: ShardStats, table: pa.Table, images: bool) -> list[str]:
    name, problems = url.rsplit("/", 1)[-1], []
    rows = table.to_pylist()
    with storage.open_read(url) as file:
        if storage.file_sha256(file) != stats.sha256:
            problems.append(f"{name}: sha256 differs from its marker's; the tar was damaged or exchanged")
    if len(rows) != stats.count or Counter(row["label"] for row in rows) != Counter(stats.per_class):
        problems.append(f"{name}: the table's counts differ from the marker's")
    places: dict[str, tuple[int, int]] = {}
    try:
        with storage.open_read(url) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isfile() or not _MEMBER.fullmatch(member.name):
                    problems.append(f"{name}: foreign member {member.name!r}")
                places[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        return [*problems, f"{name}: corrupt tar: {error}"]
    wanted = {f"{row['key']}.{kind}" for row in rows for kind in MEMBERS if kind != "json" or row["provenance"] != "{}"}
    if wanted != set(places):
        problems.append(f"{name}: {len(wanted ^ set(places))} members are missing or not in the table")
    for row in rows:
        offset, size = row["jpg_offset"], row["jpg_size"]
        if places.get(f"{row['key']}.jpg") != (offset, size):
            problems.append(f"{name}: the table's offset of {row['key']}.jpg is wrong")
        elif images:
            try:
                decode_image(storage.read_bytes(url, offset, offset + size), f"{name}:{row['key']}.jpg")
            except UnreadableImageError as error:
                problems.append(str(error))
    return problems


def _parse(text: bytes) -> ShardStats | None:
    try:
        return ShardStats.model_validate_json(text)
    except ValidationError:
        return None
