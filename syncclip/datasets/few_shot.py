"""The few-shot choice of the literature: which real training images a run uses."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def choose_rows(labels: Iterable[int], per_class: int, seed: int, wanted: Iterable[int]) -> npt.NDArray[np.int64]:
    """Rows of the training split that a few-shot run uses: a pure function of its arguments.

    One generator, seeded once, draws from the whole split, label by label; the wanted classes are selected afterwards.
    So the choice for a class does not depend on which others are wanted, and equals the choice of published runs
    wherever the split's order is theirs.

    Args:
        labels: the class id of every row, in the split's own order.
        per_class: rows of each class, at least 1; a class with fewer gives all it has, in order, without drawing a
            random number.
        seed: the run's seed.
        wanted: the class ids to keep.

    Returns:
        Rows by class, classes in order of first appearance, the rows of each in the order drawn.

    Source: CoOp (arXiv 2109.01134), whose published runs use seeds 1, 2, 3.
    """
    rows_of: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(int(label), []).append(row)
    generator, keep, chosen = random.Random(seed), set(wanted), list[int]()
    for label, rows in rows_of.items():
        drawn = rows if len(rows) < per_class else generator.sample(rows, per_class)
        chosen += drawn if label in keep else []
    return np.array(chosen, dtype=np.int64)
