"""A dataset and its settings: classes, template, splits of real images, base and novel classes, the few-shot choice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field, StrictInt

from syncclip.clip.prompt_text import filled
from syncclip.core.settings import MANY, MOST_CLASSES, Settings, ShortText, UserError
from syncclip.core.text import ARTICLE, few
from syncclip.shards.reader import ImageSet

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
TEMPLATE = "a photo of a {}."

Ids = npt.NDArray[np.int64]
"""Class ids, or rows."""


class DatasetSettings(Settings):
    """Which real images there are, and how many of them are trained on."""

    name: str = "icons/travel"
    """A shipped dataset; one of the literature, found below `root`; or a user's own data: a folder of class folders,
    a table of paths and labels, an image folder with metadata, or WebDataset shards."""
    root: str | None = None
    """Folder in which `name` is looked up; for the literature's, the folder of all of them in CoOp's layout."""
    shots: int = Field(default=16, ge=1)
    """Real training images of each base class."""
    seed: int | None = None
    """Of the few-shot choice; None: the training's seed."""
    template: ShortText | None = None
    """Prompt template with `{}` for the class name, or `{a}` for it with its article; None: the dataset's own."""
    classnames: Annotated[list[ShortText], MANY] | None = None
    """Class names by id; None: the dataset's own."""
    base: Literal["first", "drawn", "all"] | list[StrictInt | str] = "first"
    """Which classes are base: the first half of the ids, half of them drawn by `base_seed`, all, or these ids or
    names."""
    base_seed: int = 0
    """Of the half that is drawn."""
    split_seed: int = 0
    """Of the random split where data has no `train`, `val` and `test` of its own."""
    resize: int | None = Field(default=None, ge=1)
    """Shorter side, in pixels, to which `shards pack` scales images down; None keeps the files as they are."""


class ImageView(ImageSet):
    """The images of another set, by default under their own class ids. Subclasses change what they give."""

    def __init__(self, images: ImageSet, labels: Ids | None = None) -> None:
        self.images = images
        self.labels = images.labels if labels is None else labels

    def read(self, row: int) -> bytes:
        return self.images.read(row)

    def name(self, row: int) -> str:
        return self.images.name(row)

    def image(self, row: int) -> Image.Image:
        return self.images.image(row)


class Splits(Mapping[Split, ImageSet]):
    """The images of each split, opened when they are first asked for."""

    def __init__(self, names: Iterable[Split], opened: Callable[[Split], ImageSet]) -> None:
        self._names, self._opened = tuple(names), cache(opened)

    def __getitem__(self, name: Split) -> ImageSet:
        if name not in self._names:
            raise KeyError(name)
        return self._opened(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # that of a mapping would open it

    def __iter__(self) -> Iterator[Split]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


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
            choices are made from the whole.
        open_part: opens the split, and gives the rows of the whole that it has, ascending.
        trained: ids of the classes that have training images, as far as is known before the split is opened; None: as
            its labels show.
        skipped: number of files by extension that lie among the images and are not read.
    """

    name: str
    classnames: list[str]
    template: str
    splits: Mapping[Split, ImageSet] = field(repr=False)
    base_count: int | None = None
    only: Sequence[int] | None = field(default=None, repr=False)
    whole_train: Ids | None = field(default=None, repr=False)
    open_part: Callable[[], Ids] | None = field(default=None, repr=False)
    trained: frozenset[int] | None = field(default=None, repr=False)
    skipped: Mapping[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(self.classnames) < 2:
            raise UserError(
                f"dataset {self.name!r} has {len(self.classnames)} class; base and novel classes need at least 2."
            )
        if len(self.classnames) > MOST_CLASSES:
            raise UserError(
                f"dataset {self.name!r} has {len(self.classnames):,} classes; at most {MOST_CLASSES:,} are supported: "
                "choose some of them."
            )
        for label, name in enumerate(self.classnames):
            if not name.replace("_", " ").strip() or not name.isprintable():
                raise UserError(
                    f"dataset {self.name!r}: class {label} has the name {name!r}, which no text encoder can read; "
                    "rename it, or give names with dataset.classnames."
                )
        if "{}" not in self.template and ARTICLE not in self.template:
            raise UserError(
                f"dataset {self.name!r}: template {self.template!r} has no '{{}}' where the class name goes."
            )
        assert self.base_count is None or 0 < self.base_count <= len(self.classnames)
        assert (self.whole_train is None) == (self.open_part is None)

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
        return filled(self.template, self.classnames[label])

    def without_training(self, classes: Iterable[int]) -> list[str]:
        """Names of those of the classes that have no training image, found without opening a packed split."""
        shown = set(np.unique(self.split("train").labels).tolist()) if self.trained is None else self.trained
        return [self.classnames[label] for label in classes if label not in shown]

    def split(self, name: Split) -> ImageSet:
        """The images of a split.

        Raises:
            UserError: the dataset has no such split.
        """
        if name not in self.splits:
            raise UserError(f"dataset {self.name!r} has no split {name!r}; it has {', '.join(self.splits)}.")
        return self.splits[name]

    def with_images(self, change: Callable[[Split, ImageSet], ImageSet]) -> Dataset:
        """The dataset with other images in its splits; each is changed when it is first used."""
        return replace(self, splits=Splits(self.splits, lambda split: change(split, self.splits[split])))

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
        labels = self.split("train").labels if self.whole_train is None else self.whole_train
        shown = set(np.unique(labels).tolist())  # not `trained`: a split without a count opens with fewer images
        if empty := [self.classnames[label] for label in wanted if label not in shown]:
            raise UserError(
                f"dataset {self.name!r}: {len(empty)} of the {'base ' if classes == 'base' else ''}classes have no "
                "training image "
                f"({few(map(repr, empty))}); add images or remove the class."
            )
        rows = choose_rows(labels, shots, seed, wanted)
        return rows if self.open_part is None else self._packed(rows, shots, seed)

    def _packed(self, rows: Ids, shots: int, seed: int) -> Ids:
        """Rows of the packed part, from rows of the whole training split."""
        assert self.open_part is not None
        part = self.open_part()
        places = np.searchsorted(part, rows)
        there = places < len(part)
        there[there] = part[places[there]] == rows[there]
        if not there.all():
            raise UserError(
                f"dataset {self.name!r} was packed without {int((~there).sum())} of the {len(rows)} images that "
                f"{shots} shots of seed {seed} need; pack it again with --shots {shots} --seeds {seed}."
            )
        return places.astype(np.int64)


def choose_rows(labels: Iterable[int], per_class: int, seed: int, wanted: Iterable[int]) -> Ids:
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


def with_base(dataset: Dataset, base: Literal["drawn", "all"] | Sequence[str | int], seed: int) -> Dataset:
    """The dataset with other base classes, which come first; base and novel classes each keep their order.

    Args:
        base: a half "drawn" by the seed; "all" classes; or the names or ids of the base classes.

    Raises:
        UserError: a name of no class, or of several.
    """
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
    dataset = dataset.with_images(lambda _, images: ImageView(images, ids[images.labels]))
    return replace(
        dataset,
        classnames=[dataset.classnames[label] for label in order],
        base_count=len(set(chosen)),
        only=None if dataset.only is None else ids[np.array(dataset.only)].tolist(),
        whole_train=None if dataset.whole_train is None else ids[dataset.whole_train],
        trained=None if dataset.trained is None else frozenset(ids[list(dataset.trained)].tolist()),
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
