"""A dataset and its settings: classes, prompt template, splits of real images, division into base and novel classes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from syncclip.core.settings import Settings, UserError
from syncclip.core.text import few
from syncclip.datasets.few_shot import choose_rows
from syncclip.shards.reader import ImageSet

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
TEMPLATE = "a photo of a {}."

Ids = npt.NDArray[np.int64]
"""Class ids, or rows."""


class DatasetSettings(Settings):
    """Which real images there are, and how many of them are trained on."""

    name: str = "icons"
    """A shipped dataset; one of the literature, found below `root`; or a user's own data: a folder of class folders,
    a table of paths and labels, an image folder with metadata, or WebDataset shards."""
    root: str | None = None
    """Folder in which `name` is looked up; for the literature's, the folder of all of them in CoOp's layout."""
    shots: int = Field(default=16, ge=1)
    """Real training images of each base class."""
    seed: int | None = None
    """Of the few-shot choice; None: the training's seed."""
    template: str | None = None
    """Prompt template with `{}` for the class name; None: the dataset's own."""
    classnames: list[str] | None = None
    """Class names by id; None: the dataset's own."""
    base: Literal["first", "drawn", "all"] | list[int | str] = "first"
    """Which classes are base: the first half of the ids, half of them drawn by `base_seed`, all, or these ids or
    names."""
    base_seed: int = 0
    """Of the half that is drawn."""
    split_seed: int = 0
    """Of the random split where data has no `train`, `val` and `test` of its own."""
    resize: int | None = Field(default=None, ge=1)
    """Shorter side, in pixels, to which `shards pack` scales images down; None keeps the files as they are."""


class Images(ImageSet, Protocol):
    """A split's images, with access to their files."""

    def read(self, row: int) -> bytes:
        """The file's bytes."""

    def name(self, row: int) -> str:
        """An image's name in messages."""


class ImageView:
    """The images of another set, by default under their own class ids. Subclasses change what they give."""

    def __init__(self, images: Images, labels: Ids | None = None) -> None:
        self.images = images
        self.labels: Ids = np.asarray(images.labels if labels is None else labels, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def rows_of(self, label: int) -> Ids:
        """Ascending rows of a class; empty where it has none."""
        return np.flatnonzero(self.labels == label).astype(np.int64)

    def read(self, row: int) -> bytes:
        """The file's bytes."""
        return self.images.read(row)

    def name(self, row: int) -> str:
        """An image's name in messages."""
        return self.images.name(row)

    def image(self, row: int) -> Image.Image:
        """The decoded image, RGB."""
        return self.images.image(row)


@dataclass(frozen=True)
class Dataset:
    """Classes, template and real images. A label is a position in `classnames`: names may repeat, ids never.

    The first ids, by default `ceil(C / 2)`, are the base classes, which have real training images; the others are
    novel.

    Attributes:
        base_count: number of base classes; None: half of all, rounded up.
        only: ids of the candidate classes; None: all. A test set with images of few classes keeps the ids of the
            training set that it belongs to, and excludes the others here.
        whole_train: (N,) class ids of the whole training split, where `splits["train"]` has a part of it: few-shot
            choices are made from the whole. Row i of the part is row `part[i]` of the whole.
        part: see `whole_train`; ascending.
    """

    name: str
    classnames: list[str]
    template: str
    splits: Mapping[Split, Images] = field(repr=False)
    base_count: int | None = None
    only: Sequence[int] | None = field(default=None, repr=False)
    whole_train: Ids | None = field(default=None, repr=False)
    part: Ids | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.classnames) < 2:
            raise UserError(
                f"dataset {self.name!r} has {len(self.classnames)} class; base and novel classes need at least 2."
            )
        for label, name in enumerate(self.classnames):
            if not name.replace("_", " ").strip() or not name.isprintable():
                raise UserError(
                    f"dataset {self.name!r}: class {label} has the name {name!r}, which no text encoder can read; "
                    "rename it, or give names with dataset.classnames."
                )
        if "{}" not in self.template:
            raise UserError(
                f"dataset {self.name!r}: template {self.template!r} has no '{{}}' where the class name goes."
            )
        for split, images in self.splits.items():
            labels = np.asarray(images.labels)
            if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classnames):
                raise UserError(
                    f"dataset {self.name!r}, split {split}: labels run from {labels.min()} to {labels.max()}, "
                    f"but there are {len(self.classnames)} classes (0 to {len(self.classnames) - 1})."
                )
            if self.only is not None and not set(np.unique(labels).tolist()) <= set(self.only):
                raise UserError(f"dataset {self.name!r}, split {split}: has images of classes that are no candidates.")
        assert self.base_count is None or 0 < self.base_count <= len(self.classnames)
        assert (self.whole_train is None) == (self.part is None)

    @property
    def base(self) -> list[int]:
        """Ids of the base classes."""
        return list(range((len(self.classnames) + 1) // 2 if self.base_count is None else self.base_count))

    @property
    def novel(self) -> list[int]:
        """Ids of the novel classes."""
        return list(range(len(self.base), len(self.classnames)))

    @property
    def candidates(self) -> list[int]:
        """Ids of the classes that a prediction may name, ascending."""
        return list(range(len(self.classnames))) if self.only is None else sorted(self.only)

    def prompt(self, label: int) -> str:
        """The template with the name of a class."""
        return self.template.replace("{}", self.classnames[label])

    @property
    def training_labels(self) -> Ids:
        """(N,) class ids of the whole training split, also where only a part of it was packed."""
        return np.asarray(self.split("train").labels if self.whole_train is None else self.whole_train)

    def without_training(self, classes: Iterable[int]) -> list[str]:
        """Names of those of the classes that have no training image."""
        shown = set(np.unique(self.training_labels).tolist())
        return [self.classnames[label] for label in classes if label not in shown]

    def split(self, name: Split) -> ImageSet:
        """The images of a split.

        Raises:
            UserError: the dataset has no such split.
        """
        if name not in self.splits:
            raise UserError(f"dataset {self.name!r} has no split {name!r}; it has {', '.join(self.splits)}.")
        return self.splits[name]

    def few_shot(self, shots: int, seed: int, classes: Literal["base", "all"] = "base") -> Ids:
        """Rows of the training split for `shots` images per class, as the literature chooses them.

        Args:
            shots: images per class, at least 1; a class with fewer gives all it has.
            seed: of the choice.
            classes: "base" for base-to-novel, "all" for few-shot learning of all classes.

        Raises:
            UserError: fewer than one image is requested, a class has none, or the dataset was packed without the
                images of this choice.
        """
        if shots < 1:
            raise UserError(f"dataset.shots is {shots}; training on real images needs at least 1 per class.")
        wanted = self.base if classes == "base" else range(len(self.classnames))
        if empty := self.without_training(wanted):
            raise UserError(
                f"dataset {self.name!r}: {len(empty)} of the {classes} classes have no training image "
                f"({few(map(repr, empty))}); add images or remove the class."
            )
        rows = choose_rows(self.training_labels, shots, seed, wanted)
        return rows if self.part is None else self._packed(rows, shots, seed)

    def _packed(self, rows: Ids, shots: int, seed: int) -> Ids:
        """Rows of the packed part, from rows of the whole training split."""
        assert self.part is not None
        places = np.searchsorted(self.part, rows)
        there = places < len(self.part)
        there[there] = self.part[places[there]] == rows[there]
        if not there.all():
            raise UserError(
                f"dataset {self.name!r} was packed without {int((~there).sum())} of the {len(rows)} images that "
                f"{shots} shots of seed {seed} need; pack it again with --shots {shots} --seeds {seed}."
            )
        return places.astype(np.int64)


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
