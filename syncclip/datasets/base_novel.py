"""Other base and novel halves than the first and the second: classes are put in another order, base ones first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.datasets.dataset import Benchmark, Pictures

Ids = npt.NDArray[np.int64]


class Relabelled:
    """Pictures whose classes have other ids: `ids[old]` is the new one."""

    def __init__(self, pictures: Pictures, ids: Ids) -> None:
        self._pictures = pictures
        self.labels: Ids = ids[np.asarray(pictures.labels)]

    def __len__(self) -> int:
        return len(self.labels)

    def rows_of(self, label: int) -> Ids:
        """The rows that show a class, ascending."""
        return np.flatnonzero(self.labels == label).astype(np.int64)

    def read(self, row: int) -> bytes:
        """The file's bytes."""
        return self._pictures.read(row)

    def name(self, row: int) -> str:
        """What a picture is called in a message."""
        return self._pictures.name(row)

    def image(self, row: int) -> Image.Image:
        """The decoded picture, RGB."""
        return self._pictures.image(row)


def with_base(
    benchmark: Benchmark, base: Literal["first", "drawn", "all"] | Sequence[str | int], seed: int
) -> Benchmark:
    """The benchmark with other base classes; they come first, each half in its old order.

    Args:
        base: "first" half of the ids, which changes nothing; a half "drawn" by the seed; "all" classes; or the names
            or ids of the base classes.

    Raises:
        UserError: a name that no class has, or that several have.
    """
    if base == "first":
        return benchmark
    count = len(benchmark.classnames)
    if base == "all":
        return replace(benchmark, base_count=count)
    if base == "drawn":
        chosen = random.Random(seed).sample(range(count), (count + 1) // 2)
    else:
        assert not isinstance(base, str)
        chosen = [_class_id(benchmark, one) for one in base]
    order = [*sorted(set(chosen)), *sorted(set(range(count)) - set(chosen))]
    ids = np.argsort(np.array(order)).astype(np.int64)
    return replace(
        benchmark,
        classnames=[benchmark.classnames[label] for label in order],
        splits={split: Relabelled(pictures, ids) for split, pictures in benchmark.splits.items()},
        base_count=len(set(chosen)),
        only=None if benchmark.only is None else ids[np.array(benchmark.only)].tolist(),
        whole_train=None if benchmark.whole_train is None else ids[benchmark.whole_train],
    )


def _class_id(benchmark: Benchmark, wanted: str | int) -> int:
    names = benchmark.classnames
    if isinstance(wanted, int):
        if not 0 <= wanted < len(names):
            raise UserError(f"benchmark.base: {wanted} is no class id; they run from 0 to {len(names) - 1}.")
        return wanted
    found = [label for label, name in enumerate(names) if name == wanted]
    if not found:
        raise UserError(f"benchmark.base: no class of {benchmark.name!r} is called {wanted!r}.")
    if len(found) > 1:
        ids = " and ".join(map(str, found))
        raise UserError(f"benchmark.base: classes {ids} are all called {wanted!r}; give ids instead of names.")
    return found[0]
