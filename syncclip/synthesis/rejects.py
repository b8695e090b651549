"""Thumbnails of a few rejected images per reason, stored next to a synthetic dataset's first shards."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import pyarrow as pa
from PIL import Image, ImageOps

from syncclip import storage

if TYPE_CHECKING:
    from syncclip.synthesis.plan import Entry

SHARDS = 32
"""Number of shards whose thumbnails are stored."""
PER_REASON = 4
"""Maximum number of thumbnails per shard and reason."""
SIDE = 64
"""Side length of a thumbnail in pixels."""
BLUR = 6
"""Side length of a blurred thumbnail in pixels before upscaling to `SIDE`."""

_TABLE = pa.schema(
    [
        ("reason", pa.string()),
        ("index", pa.int64()),
        ("label", pa.int64()),
        ("attempt", pa.int64()),
        ("score", pa.float64()),
        ("jpeg", pa.binary()),
    ]
)
REJECTS = re.compile(r"(\d{5,})_rejects\.parquet")


@dataclass(frozen=True)
class Reject:
    """A rejected image with its rejection reason, sample, attempt, score and thumbnail."""

    reason: str
    index: int
    label: int
    attempt: int
    score: float | None
    jpeg: bytes


class Gallery:
    """The first rejected images of a shard, up to `PER_REASON` images per reason."""

    def __init__(self, shard: int) -> None:
        self.rejects: list[Reject] = []
        self._counts: Counter[str] = Counter()
        self._limit = PER_REASON if shard < SHARDS else 0

    def add(self, reason: str, image: Image.Image, entry: Entry, score: float | None, blurred: bool) -> None:
        """Add a rejected image's thumbnail, blurred if requested, up to `PER_REASON` thumbnails per reason."""
        if self._counts[reason] < self._limit:
            self._counts[reason] += 1
            thumbnail = _thumbnail(image, blurred)
            self.rejects.append(Reject(reason, entry.index, entry.label, entry.attempt, score, thumbnail))


def rejects_name(shard: int) -> str:
    """Return the name of a shard's thumbnail file, such as `00000_rejects.parquet`."""
    return f"{shard:05d}_rejects.parquet"


def write_rejects(url: str, shard: int, rejects: Sequence[Reject], owner: str = storage.NOBODY) -> None:
    """Write a shard's thumbnails, if any, as a table; `owner` is the plan's owner ID."""
    if rejects:
        table = pa.Table.from_pylist([asdict(reject) for reject in rejects], _TABLE)
        storage.write_table(storage.join(url, rejects_name(shard)), table, owner_of_shard(owner, shard))


def owner_of_shard(owner: str, shard: int) -> str:
    """Return the owner ID of a shard's files, derived from `owner`, the plan's owner ID."""
    return storage.identity(f"{owner}/{shard}")


def read_rejects(url: str, limit: int, owner: str) -> dict[str, list[Reject]]:
    """Return up to `limit` rejects per reason, alternating between classes; `owner` is the plan's owner ID."""
    folder = storage.join(url, "")
    shards = {folder + name: int(match[1]) for name in storage.sizes(url) if (match := REJECTS.fullmatch(name))}
    owners = {path: owner_of_shard(owner, shard) for path, shard in shards.items()}
    texts = storage.read_many(list(shards), owner=owners)
    by_reason: dict[str, list[Reject]] = {}
    for data in texts.values():
        for row in storage.read_parquet(data, _TABLE).to_pylist():
            by_reason.setdefault(row["reason"], []).append(Reject(**row))
    return {reason: _varied(rejects)[:limit] for reason, rejects in sorted(by_reason.items())}


def _varied(rejects: list[Reject]) -> list[Reject]:
    """Return the first reject of each class, then the second reject of each class, and so on."""
    by_class: dict[int, list[Reject]] = {}
    for reject in rejects:
        by_class.setdefault(reject.label, []).append(reject)
    return [reject for turn in zip_longest(*by_class.values()) for reject in turn if reject is not None]


def _thumbnail(image: Image.Image, blurred: bool) -> bytes:
    small = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    if blurred:
        small = small.resize((BLUR, BLUR), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
