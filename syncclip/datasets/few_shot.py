"""The few-shot choice of the literature: which real training images a run uses."""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def draw(labels: Iterable[int], per_class: int, generator: random.Random) -> dict[int, list[int]]:
    """Draw `per_class` rows of every label, visiting the labels in the order of their first appearance.

    Args:
        labels: the class id of every row of one split, in the split's own order.
        per_class: rows of each label; a label with fewer gives all it has, in order, without drawing a random number.
        generator: Python's own; it is advanced, so that a second split can be drawn after the first.

    Returns:
        The rows of each label, labels in order of first appearance, rows in the order drawn.

    Source: CoOp (arXiv 2109.01134), whose published runs use seeds 1, 2, 3; see `choose_rows`.
    """
    rows: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(int(label), []).append(row)
    return {
        label: found if len(found) < per_class else generator.sample(found, per_class) for label, found in rows.items()
    }


def choose_rows(
    train: Iterable[int], validation: Iterable[int] | None, per_class: int, seed: int, wanted: Iterable[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the training (and validation) split that a few-shot run uses: a pure function of its arguments.

    One generator, seeded once, draws from the whole training split and then, min(per_class, 4) images a class, from the
    validation split; the wanted classes are selected afterwards. So the choice for a class does not depend on which
    others are wanted, and equals the choice of published runs wherever the split's order is theirs.

    Args:
        train, validation: labels of the splits in their own order; None where there is no validation split.
        per_class: images of each class, at least 1.
        seed: the run's seed.
        wanted: the class ids to keep.

    Returns:
        Rows of the training split and rows of the validation split.
    """
    generator = random.Random(seed)
    keep = set(wanted)
    chosen = []
    for labels, count in ((train, per_class), (validation if validation is not None else (), min(per_class, 4))):
        drawn = draw(labels, count, generator)
        chosen.append(np.array([row for label, rows in drawn.items() if label in keep for row in rows], dtype=np.int64))
    return chosen[0], chosen[1]
