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
from syncclip.datasets.dataset import Dataset, Images

Ids = npt.NDArray[np.int64]


class Relabelled:
    """Images whose classes have other ids: `ids[old]` is the new one."""

    def __init__(self, images: Images, ids: Ids) -> None:
        self._images = images
        self.labels: Ids = ids[np.asarray(images.labels)]

    def __len__(self) -> int:
        return len(self.labels)

    def rows_of(self, label: int) -> Ids:
        """The rows that show a class, ascending."""
        return np.flatnonzero(self.labels == label).astype(np.int64)

    def read(self, row: int) -> bytes:
        """The file's bytes."""
        return self._images.read(row)

    def name(self, row: int) -> str:
        """What an image is called in a message."""
        return self._images.name(row)

    def image(self, row: int) -> Image.Image:
        """The decoded image, RGB."""
        return self._images.image(row)


def with_base(dataset: Dataset, base: Literal["first", "drawn", "all"] | Sequence[str | int], seed: int) -> Dataset:
    """The dataset with other base classes; they come first, each half in its old order.

    Args:
        base: "first" half of the ids, which changes nothing; a half "drawn" by the seed; "all" classes; or the names
            or ids of the base classes.

    Raises:
        UserError: a name that no class has, or that several have.
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
        splits={split: Relabelled(images, ids) for split, images in dataset.splits.items()},
        base_count=len(set(chosen)),
        only=None if dataset.only is None else ids[np.array(dataset.only)].tolist(),
        whole_train=None if dataset.whole_train is None else ids[dataset.whole_train],
    )


def _class_id(dataset: Dataset, wanted: str | int) -> int:
    names = dataset.classnames
    if isinstance(wanted, int):
        if not 0 <= wanted < len(names):
            raise UserError(f"dataset.base: {wanted} is no class id; they run from 0 to {len(names) - 1}.")
        return wanted
    found = [label for label, name in enumerate(names) if name == wanted]
    if not found:
        raise UserError(f"dataset.base: no class of {dataset.name!r} is called {wanted!r}.")
    if len(found) > 1:
        ids = " and ".join(map(str, found))
        raise UserError(f"dataset.base: classes {ids} are all called {wanted!r}; give ids instead of names.")
    return found[0]
