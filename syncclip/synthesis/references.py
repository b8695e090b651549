"""The real pictures that drawn ones start from, where the generator has a guide ("real guidance").

They are the benchmark's few shots, which trainings see as well. A plan names them by their digests, and they lie below
the set's folder as shards, in `guides/<digest of all>`: so whoever draws, extends or repairs the set, on whichever
machine, starts from the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from PIL import Image

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets import Benchmark
from syncclip.shards.images import decode_image
from syncclip.shards.layout import committed
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from syncclip.synthesis.plan import Entry, Plan

FOLDER = "guides"
SHARD_PICTURES = 1024


class Album:
    """Hands out the real picture from which an entry of a plan starts; each is read when it is asked for.

    Args:
        plan: with `guides`.
        url: the set's folder, in which `lay` has laid them.

    Raises:
        UserError: they aren't there.
    """

    def __init__(self, plan: Plan, url: str) -> None:
        self.plan = plan
        self.url = _place(plan.guides, url)
        wanted = [len(real) for real in plan.guides]
        pictures = ShardSet(self.url) if committed(self.url) else None
        if pictures is None or [len(pictures.rows_of(label)) for label in range(plan.classes)] != wanted:
            raise UserError(f"{self._incomplete()}; run `syncclip synth` with the recipe that it was begun with")
        self._pictures = pictures

    def guides(self, entries: Sequence[Entry]) -> list[Image.Image | None]:
        """The RGB picture that each starts from, None where it starts from noise.

        Raises:
            UserError: a picture can't be read, or isn't the one that the plan names.
        """
        return [self._guide(entry) for entry in entries]

    def _guide(self, entry: Entry) -> Image.Image | None:
        planned = self.plan.guide_of(entry.label, entry.image)
        if planned is None:
            return None
        rows = self._pictures.rows_of(entry.label)
        row = int(rows[entry.image % len(rows)])
        data, name = self._pictures.read(row), self._pictures.name(row)
        if digest_of(data) != planned:
            raise UserError(f"{self._incomplete()}: {name} has changed; restore it, or draw into another folder")
        return decode_image(data, name)

    def _incomplete(self) -> str:
        return f"{self.url} doesn't hold the real pictures that the set was begun with"


def real_pictures(benchmark: Benchmark, shots: int, seed: int) -> list[list[bytes]]:
    """For each class the files of its few shots, in the order of their use; nothing for those without real pictures.

    Raises:
        UserError: the benchmark has no training pictures.
    """
    found: list[list[bytes]] = [[] for _ in benchmark.classnames]
    labels = benchmark.split("train").labels
    for row in benchmark.few_shot(shots, seed):
        found[int(labels[row])].append(benchmark.splits["train"].read(int(row)))
    return found


def digests(pictures: Sequence[Sequence[bytes]]) -> tuple[tuple[str, ...], ...]:
    """For each class the digests of its real pictures: what a plan holds of them."""
    return tuple(tuple(map(digest_of, of_class)) for of_class in pictures)


def digest_of(data: bytes) -> str:
    """Hex digest (16 digits) of a picture's file."""
    return hashlib.sha256(data).hexdigest()[:16]


def lay(pictures: Sequence[Sequence[bytes]], benchmark: Benchmark, url: str) -> None:
    """Lay the real pictures into the folder of the set at `url`; what is there stays.

    After a crash each shard of them is there or isn't, and the same call writes those that are missing.
    """
    place = _place(digests(pictures), url)
    there = committed(place)
    rows = [(label, data) for label, of_class in enumerate(pictures) for data in of_class]
    samples = [Sample(index, label, data, benchmark.prompt(label)) for index, (label, data) in enumerate(rows)]
    for shard, start in enumerate(range(0, len(samples), SHARD_PICTURES)):
        if shard not in there:
            write_shard(place, shard, samples[start : start + SHARD_PICTURES])


def _place(guides: Sequence[Sequence[str]], url: str) -> str:
    """Where real pictures of these digests lie; others, of a set that was begun and given up, lie elsewhere."""
    return storage.join(url, FOLDER, digest_of("\n".join(",".join(of_class) for of_class in guides).encode()))
