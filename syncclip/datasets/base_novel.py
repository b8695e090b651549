"""Other base classes than the first half: classes are reordered so that the base ones come first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from syncclip.core.settings import UserError
from syncclip.datasets.dataset import Dataset, ImageView


def with_base(dataset: Dataset, base: Literal["first", "drawn", "all"] | Sequence[str | int], seed: int) -> Dataset:
    """The dataset with other base classes, which come first; base and novel classes each keep their order.

    Args:
        base: the "first" half of the ids, which changes nothing; a half "drawn" by the seed; "all" classes; or the
            names or ids of the base classes.

    Raises:
        UserError: a name of no class, or of several.
    """
    if base == "first":
        return dataset
    count = len(dataset.classnames)
    if base == "all":
        return replace(dataset, base_count=count)
    if base == "drawn":
        chosen = random.Random(seed).sample(range(count), (count + 1) // 2)
    else:
        assert not isinstance(base, str)
        chosen = [_class_id(dataset, one) for one in base]
    order = [*sorted(set(chosen)), *sorted(set(range(count)) - set(chosen))]
    ids = np.argsort(np.array(order)).astype(np.int64)
    return replace(
        dataset,
        classnames=[dataset.classnames[label] for label in order],
        splits={split: ImageView(images, ids[np.asarray(images.labels)]) for split, images in dataset.splits.items()},
        base_count=len(set(chosen)),
        only=None if dataset.only is None else ids[np.array(dataset.only)].tolist(),
        whole_train=None if dataset.whole_train is None else ids[dataset.whole_train],
    )


def _class_id(dataset: Dataset, wanted: str | int) -> int:
    names = dataset.classnames
    if isinstance(wanted, int):
        if not 0 <= wanted < len(names):
            raise UserError(f"dataset.base: {wanted} is not a class id; ids run from 0 to {len(names) - 1}.")
        return wanted
    found = [label for label, name in enumerate(names) if name == wanted]
    if not found:
        raise UserError(f"dataset.base: no class of {dataset.name!r} is called {wanted!r}.")
    if len(found) > 1:
        ids = " and ".join(map(str, found))
        raise UserError(f"dataset.base: classes {ids} are all called {wanted!r}; give ids instead of names.")
    return found[0]
