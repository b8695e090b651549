"""Thumbnails of rejected images: a few for each reason, beside the first shards of a set.

They show what a filter throws away, and are no part of the set. Which ones are kept is a function of the shard alone.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
from PIL import Image, ImageOps

from syncclip import storage

if TYPE_CHECKING:
    from syncclip.synthesis.plan import Entry

SHARDS = 32
"""So many first shards keep thumbnails: a set of any size has a few hundred kilobytes of them."""
EACH = 4
"""Thumbnails of a shard for each reason."""
SIDE = 64
"""Pixels."""
BLUR = 6
"""Pixels that an unrecognisable thumbnail has on a side before it is enlarged."""

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
    """A rejected image: why, which sample it was meant to be, the rejecting filter's score, and a thumbnail."""

    reason: str
    index: int
    label: int
    attempt: int
    score: float | None
    jpeg: bytes


class Gallery:
    """Collects the first rejects of a shard for each reason, in the order in which they were generated."""

    def __init__(self, shard: int) -> None:
        self.rejects: list[Reject] = []
        self._counts: Counter[str] = Counter()
        self._each = EACH if shard < SHARDS else 0

    def add(self, reason: str, image: Image.Image, entry: Entry, score: float | None, blurred: bool) -> None:
        """Keep a thumbnail of a reject, if there is room for one more of its reason; an unrecognisable one if
        `blurred`."""
        if self._counts[reason] < self._each:
            self._counts[reason] += 1
            thumbnail = _thumbnail(image, blurred)
            self.rejects.append(Reject(reason, entry.index, entry.label, entry.attempt, score, thumbnail))


def rejects_name(shard: int) -> str:
    """`00000_rejects.parquet`."""
    return f"{shard:05d}_rejects.parquet"


def write_rejects(url: str, shard: int, rejects: Sequence[Reject], owner: str = storage.NOBODY) -> None:
    """Write a shard's thumbnails beside it, if there are any; the same rejects give the same bytes.

    Args:
        owner: identity of the plan, see `storage.seals`.
    """
    if rejects:
        table = pa.Table.from_pylist([asdict(one) for one in rejects], _TABLE)
        storage.write_table(storage.join(url, rejects_name(shard)), table, owner_of_shard(owner, shard))


def owner_of_shard(owner: str, shard: int) -> str:
    """Identity of what belongs to one shard of a plan."""
    return storage.identity(f"{owner}/{shard}")


def read_rejects(url: str, most: int, owner: str) -> dict[str, list[Reject]]:
    """Reason -> at most `most` rejects of the set at `url`, those of different classes first; {} where none are.

    Args:
        owner: identity of the plan, see `storage.seals`.
    """
    folder = storage.join(url, "")
    shards = {folder + name: int(match[1]) for name in storage.sizes(url) if (match := REJECTS.fullmatch(name))}
    owners = {place: owner_of_shard(owner, shard) for place, shard in shards.items()}
    texts = storage.read_many(list(shards), owner=owners)
    found: dict[str, list[Reject]] = {}
    for data in texts.values():
        for row in storage.read_parquet(data, _TABLE).to_pylist():
            found.setdefault(row["reason"], []).append(Reject(**row))
    return {reason: _varied(rejects)[:most] for reason, rejects in sorted(found.items())}


def _varied(rejects: list[Reject]) -> list[Reject]:
    """The first of every class, then the second of every class, and so on."""
    seen: Counter[int] = Counter()
    ranks = []
    for one in rejects:
        ranks.append(seen[one.label])
        seen[one.label] += 1
    return [one for _, one in sorted(zip(ranks, rejects, strict=True), key=lambda pair: pair[0])]


def _thumbnail(image: Image.Image, blurred: bool) -> bytes:
    small = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)
    if blurred:
        small = small.resize((BLUR, BLUR), Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
