"""Writing of a shard: the tar, then its table, then its commit marker."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from syncclip import storage
from syncclip.shards.markers import ShardStats, sample_key, shard_name, stats_name, table_name
from syncclip.shards.tables import schema


@dataclass(frozen=True)
class Sample:
    """One image of a set, ready to be written."""

    index: int  # unique position in the set
    label: int  # class id
    image_bytes: bytes  # JPEG file
    text: str  # prompt or caption
    provenance: Mapping[str, Any] = field(default_factory=dict)  # JSON values: seed, attempt, scores, source, …


def write_shard(
    url: str,
    shard: int,
    samples: Iterable[Sample],
    rejects: Mapping[str, int] | None = None,
    seconds: float = 0.0,
    owner: str = storage.NOBODY,
) -> ShardStats:
    """Write a shard of the set at `url` and commit it; returns the marker. The shard is built in memory.

    The bytes of tar and table depend on the samples alone, so two writers of one shard write the same files. The write
    is atomic: the marker comes last, and each of the three files appears whole or not at all.

    Args:
        samples: in ascending order of their index.
        rejects: reason -> rejected images, for the marker.
        seconds: wall time of generating the shard, for the marker.
        owner: identity of the plan or dataset, see `storage.checksums`.
    """
    samples = list(samples)
    assert all(a.index < b.index for a, b in itertools.pairwise(samples)), "samples out of order"
    provenances = [
        json.dumps(dict(sample.provenance), sort_keys=True, ensure_ascii=False, allow_nan=False) for sample in samples
    ]
    archive, offsets = _archive(samples, provenances)
    with ThreadPoolExecutor(1) as hasher:
        checksum = hasher.submit(hashlib.sha256, archive)  # takes as long as the disk
        storage.write_bytes(storage.join(url, shard_name(shard)), archive)
        table = _table(samples, provenances, offsets)
        storage.write_bytes(storage.join(url, table_name(shard)), table)
    stats = ShardStats(
        shard=shard,
        count=len(samples),
        bytes=len(archive),
        sha256=checksum.result().hexdigest(),
        table_sha256=hashlib.sha256(table).hexdigest(),
        per_class=dict(sorted(Counter(sample.label for sample in samples).items())),
        rejects=dict(sorted((rejects or {}).items())),
        seconds=round(seconds, 3),
        owner=owner,
    )
    storage.write_with_checksum(
        storage.join(url, stats_name(shard)), stats.model_dump_json(indent=1).encode(), owner=owner
    )
    return stats


def _archive(samples: Sequence[Sample], provenances: Sequence[str]) -> tuple[bytes, list[int]]:
    """The tar, and the offset of each JPEG in it."""
    from webdataset import TarWriter  # imports torch, which readers do not need

    file = io.BytesIO()
    with TarWriter(file, encoder=False, mtime=0) as tar:
        for sample, provenance in zip(samples, provenances, strict=True):
            members = {"cls": str(sample.label).encode(), "jpg": sample.image_bytes, "txt": sample.text.encode()}
            if sample.provenance:  # an empty member would still take 1 KiB
                members["json"] = provenance.encode()
            tar.write({"__key__": sample_key(sample.index), **members})
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as written:
        offsets = [member.offset_data for member in written if member.name.endswith(".jpg")]
    return file.getvalue(), offsets


def _table(samples: Sequence[Sample], provenances: Sequence[str], offsets: Sequence[int]) -> bytes:
    """The parquet table, with the offset of every JPEG in the tar."""
    import pyarrow as pa  # slow to import
    import pyarrow.parquet as pq

    columns = {
        "key": [sample_key(sample.index) for sample in samples],
        "index": [sample.index for sample in samples],
        "label": [sample.label for sample in samples],
        "text": [sample.text for sample in samples],
        "jpg_offset": offsets,
        "jpg_size": [len(sample.image_bytes) for sample in samples],
        "provenance": provenances,
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema()), buffer)
    return buffer.getvalue()
