"""Shard writer: writes a tar, then its table, and finally its commit marker."""

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
    """An image in a dataset, with its metadata."""

    index: int  # unique position in the dataset
    label: int  # class id
    image_bytes: bytes  # content of the JPEG file
    text: str  # prompt or caption
    provenance: Mapping[str, Any] = field(default_factory=dict)  # JSON values: seed, attempt, scores, source, …


def write_shard(
    url: str,
    shard: int,
    samples: Iterable[Sample],
    rejects: Mapping[str, int] | None = None,
    seconds: float = 0.0,
    owner: str = storage.NOBODY,
    images_only: bool = False,
) -> ShardStats:
    """Build a shard of the dataset at `url` in memory, write and commit it, and return its marker.

    Concurrent writers write identical files, since the tar and the table are deterministic functions of the samples.
    Each file is written atomically, with the marker last.

    Args:
        samples: samples in ascending order of `index`.
        rejects: number of rejected images by reason, recorded in the marker.
        seconds: wall-clock generation time of the shard in seconds, recorded in the marker.
        owner: owner ID of the plan or dataset; see `storage.checksums`.
        images_only: write labels and texts only to the table, which saves 2 KiB per image in the tar.
    """
    samples = list(samples)
    assert all(a.index < b.index for a, b in itertools.pairwise(samples)), "samples out of order"
    provenances = [
        json.dumps(dict(sample.provenance), sort_keys=True, ensure_ascii=False, allow_nan=False) for sample in samples
    ]
    archive, offsets = _archive(samples, provenances, images_only)
    with ThreadPoolExecutor(1) as hasher:
        checksum = hasher.submit(hashlib.sha256, archive)  # hashing takes as long as writing
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


def _archive(samples: Sequence[Sample], provenances: Sequence[str], images_only: bool) -> tuple[bytes, list[int]]:
    """Build the tar; return its content and the offset of each JPEG."""
    from webdataset import TarWriter  # imports torch, which is not needed for reading

    file = io.BytesIO()
    with TarWriter(file, encoder=False, mtime=0) as tar:
        for sample, provenance in zip(samples, provenances, strict=True):
            members = {"jpg": sample.image_bytes}
            if not images_only:
                members = {"cls": str(sample.label).encode(), **members, "txt": sample.text.encode()}
            if sample.provenance and not images_only:  # an empty member takes 1 KiB
                members["json"] = provenance.encode()
            tar.write({"__key__": sample_key(sample.index), **members})
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as written:
        offsets = [member.offset_data for member in written if member.name.endswith(".jpg")]
    return file.getvalue(), offsets


def _table(samples: Sequence[Sample], provenances: Sequence[str], offsets: Sequence[int]) -> bytes:
    """Build the parquet table with the offset of each JPEG in the tar."""
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
