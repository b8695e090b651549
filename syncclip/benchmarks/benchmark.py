"""What a benchmark is: named classes, a prompt template, splits of real pictures, and two halves of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from syncclip.benchmarks.few_shot import choose_rows
from syncclip.settings import UserError
from syncclip.shards.reader import ImageSet

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Benchmark:
    """Classes, template and real pictures. A label is a position in `classnames`: names may repeat, ids never.

    The first half of the ids, `ceil(C / 2)`, are the base classes, which have real training pictures; the rest are
    novel.
    """

    name: str
    classnames: list[str]
    template: str
    splits: Mapping[Split, ImageSet] = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.classnames) < 2:
            raise UserError(
                f"benchmark {self.name!r} has {len(self.classnames)} class; "
                "a base half and a novel half need at least 2."
            )
        if "{}" not in self.template:
            raise UserError(
                f"benchmark {self.name!r}: template {self.template!r} has no '{{}}' where the class name goes."
            )
        for split, images in self.splits.items():
            labels = np.asarray(images.labels)
            if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classnames):
                raise UserError(
                    f"benchmark {self.name!r}, split {split}: labels run from {labels.min()} to {labels.max()}, "
                    f"but there are {len(self.classnames)} classes (0 to {len(self.classnames) - 1})."
                )

    @property
    def base(self) -> list[int]:
        """Ids of the base classes."""
        return list(range((len(self.classnames) + 1) // 2))

    @property
    def novel(self) -> list[int]:
        """Ids of the novel classes."""
        return list(range((len(self.classnames) + 1) // 2, len(self.classnames)))

    def prompt(self, label: int) -> str:
        """The template with a class's name in it."""
        return self.template.replace("{}", self.classnames[label])

    def split(self, name: Split) -> ImageSet:
        """The pictures of a split.

        Raises:
            UserError: the benchmark has no such split.
        """
        if name not in self.splits:
            raise UserError(f"benchmark {self.name!r} has no split {name!r}; it has {', '.join(self.splits)}.")
        return self.splits[name]

    def few_shot(self, shots: int, seed: int, classes: Literal["base", "all"] = "base") -> npt.NDArray[np.int64]:
        """Rows of the training split for `shots` pictures per class, as the literature chooses them.

        Args:
            shots: pictures per class, at least 1; a class with fewer gives all it has.
            seed: decides which.
            classes: "base" for base-to-novel, "all" for few-shot learning over every class.

        Raises:
            UserError: fewer than one picture is asked for, or a wanted class has none.
        """
        if shots < 1:
            raise UserError(f"benchmark.shots is {shots}; training on real pictures needs at least 1 per class.")
        wanted = self.base if classes == "base" else range(len(self.classnames))
        labels = self.split("train").labels
        rows, _ = choose_rows(labels, None, shots, seed, wanted)
        empty = sorted(set(wanted) - set(np.asarray(labels)[rows].tolist()))
        if empty:
            names = ", ".join(repr(self.classnames[label]) for label in empty[:3])
            raise UserError(
                f"benchmark {self.name!r}: {len(empty)} of the {classes} classes have no training picture ({names}); "
                "add pictures or remove the class."
            )
        return rows
