"""Write one shard: the tar, then its table, then its commit marker."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset

from syncclip import storage
from syncclip.shards.layout import TABLE, ShardStats, sample_key, shard_name, stats_name, table_name


@dataclass(frozen=True)
class Sample:
    """One image of a set, ready to be written."""

    index: int  # its place in the whole set; unique
    label: int  # class id
    image_bytes: bytes  # a JPEG file
    text: str  # the prompt that it was drawn from, or its caption
    provenance: Mapping[str, Any] = field(default_factory=dict)  # JSON values: seed, attempt, scores, source, …


def write_shard(
    url: str,
    shard: int,
    samples: Iterable[Sample],
    rejects: Mapping[str, int] | None = None,
    seconds: float = 0.0,
) -> ShardStats:
    """Write a shard of the set at `url` and commit it. The shard is made in memory.

    The bytes of the tar and the table are a function of the samples alone, so two writers of one shard, or a second
    attempt, write the same. After a crash at any time the shard either exists whole or does not exist: its marker is
    written last, and each of the three files appears whole or not at all.

    Args:
        url: Folder or prefix of the set.
        shard: Number of the shard.
        samples: In ascending order of their index.
        rejects: Reason -> images that the filters sent back while this shard was made; kept in the marker.
        seconds: What making the shard took; kept in the marker.

    Returns:
        The marker as written.

    Raises:
        UserError: The place cannot be written to.
    """
    samples = list(samples)
    assert all(a.index < b.index for a, b in itertools.pairwise(samples)), "samples out of order"
    archive = _archive(samples)
    stats = ShardStats(
        shard=shard,
        count=len(samples),
        bytes=len(archive),
        sha256=hashlib.sha256(archive).hexdigest(),
        per_class=dict(sorted(Counter(sample.label for sample in samples).items())),
        rejects=dict(sorted((rejects or {}).items())),
        seconds=round(seconds, 3),
    )
    storage.write_bytes(storage.join(url, shard_name(shard)), archive)
    storage.write_bytes(storage.join(url, table_name(shard)), _table(samples, archive))
    storage.write_bytes(storage.join(url, stats_name(shard)), stats.model_dump_json(indent=1).encode())
    return stats


def _json(sample: Sample) -> str:
    return json.dumps(dict(sample.provenance), sort_keys=True, ensure_ascii=False, allow_nan=False)


def _archive(samples: list[Sample]) -> bytes:
    """The tar; `mtime=0` because TarWriter otherwise puts the time of day into every member."""
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, encoder=False, mtime=0) as tar:
        for sample in samples:
            members = {
                "__key__": sample_key(sample.index),
                "cls": str(sample.label).encode(),
                "jpg": sample.image_bytes,
                "txt": sample.text.encode(),
            }
            # Every member costs at least 1 KiB: a picture without provenance goes without the file.
            tar.write({**members, "json": _json(sample).encode()} if sample.provenance else members)
    return buffer.getvalue()


def _table(samples: list[Sample], archive: bytes) -> bytes:
    """The parquet table, with the place of every image in the archive."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        places = {member.name: (member.offset_data, member.size) for member in tar}
    rows = []
    for sample in samples:
        key = sample_key(sample.index)
        offset, size = places[f"{key}.jpg"]
        assert archive[offset : offset + size] == sample.image_bytes
        rows.append(
            {
                "key": key,
                "index": sample.index,
                "label": sample.label,
                "text": sample.text,
                "jpg_offset": offset,
                "jpg_size": size,
                "provenance": _json(sample),
            }
        )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=TABLE), buffer)
    return buffer.getvalue()
