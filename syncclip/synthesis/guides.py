"""The real pictures that drawn ones start from, where the generator has a guide ("real guidance").

They are the benchmark's few shots, which trainings see as well. A plan names them by their digests; the pictures stay
where the benchmark lies, and whoever draws reads them there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from PIL import Image

from syncclip.benchmarks import Benchmark, BenchmarkSettings, load_benchmark
from syncclip.settings import UserError
from syncclip.shards.images import UnreadableImageError, decode_image
from syncclip.synthesis.plan import Entry, Plan

Rows = tuple[tuple[int, ...], ...]
"""For each class the rows of its few shots in the training split."""


class Album:
    """Hands out the real picture from which an entry of a plan starts; a picture is read when it is asked for.

    Args:
        plan: with `guides`.
        settings: the benchmark of those pictures, its `seed` the one that the shots were drawn by.

    Raises:
        UserError: the benchmark isn't there, or has other shots than the plan names.
    """

    def __init__(self, plan: Plan, settings: BenchmarkSettings) -> None:
        self.plan = plan
        self.benchmark = load_benchmark(settings)
        self._rows = shots_by_class(self.benchmark, settings)
        if [len(rows) for rows in self._rows] != [len(real) for real in plan.guides]:
            raise UserError(f"{self._of_another()}; give the benchmark, shots and seed that it was begun with")

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
        rows = self._rows[entry.label]
        row = rows[entry.image % len(rows)]
        pictures = self.benchmark.splits["train"]
        data, name = pictures.read(row), pictures.name(row)
        if digest_of(data) != planned:
            raise UserError(f"{self._of_another()}: {name} has changed; restore it, or draw into another folder")
        try:
            return decode_image(data, name)
        except UnreadableImageError as error:
            raise UserError(
                f"generator.guide: {name} can't be read; replace it, and draw into another folder"
            ) from error

    def _of_another(self) -> str:
        return f"benchmark {self.benchmark.name!r} doesn't have the real pictures that the set was begun with"


def digests(benchmark: Benchmark, settings: BenchmarkSettings) -> tuple[tuple[str, ...], ...]:
    """For each class the digests of the real pictures that its pictures start from, in the order of their use.

    Args:
        benchmark: as `settings` names it.
        settings: how many shots, drawn by which seed.

    Raises:
        UserError: the benchmark has no training pictures.
    """
    by_class = shots_by_class(benchmark, settings)
    read = benchmark.splits["train"].read
    return tuple(tuple(digest_of(read(row)) for row in rows) for rows in by_class)


def shots_by_class(benchmark: Benchmark, settings: BenchmarkSettings) -> Rows:
    """The few shots of each class; nothing for those without real pictures."""
    found: list[list[int]] = [[] for _ in benchmark.classnames]
    assert settings.seed is not None
    labels = benchmark.split("train").labels
    for row in benchmark.few_shot(settings.shots, settings.seed):
        found[int(labels[row])].append(int(row))
    return tuple(map(tuple, found))


def digest_of(data: bytes) -> str:
    """Hex digest (16 digits) of a picture's file."""
    return hashlib.sha256(data).hexdigest()[:16]
