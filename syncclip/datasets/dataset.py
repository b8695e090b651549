"""`Dataset` and its settings: classes, template, splits, base and novel classes, few-shot sampling."""

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
from syncclip.shards.images import SkippedFiles
from syncclip.shards.reader import ImageSet

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
TEMPLATE = "a photo of a {}."

Ids = npt.NDArray[np.int64]
"""Array of class ids or row indices."""


class DatasetSettings(Settings):
    """Section `dataset` of a recipe: real images, their classes and few-shot sampling."""

    name: str = "icons/travel"
    """Name of a bundled dataset or of a benchmark dataset in `root`, or path to custom data (class folders, a table of
    paths and labels, an image folder with metadata, or WebDataset shards)."""
    root: str | None = None
    """Folder that contains the dataset given by `name`; for benchmark datasets, the root folder in CoOp's layout."""
    shots: int = Field(default=16, ge=1)
    """Number of real training images per base class."""
    seed: int | None = None
    """Seed for few-shot sampling; None: the seed of the training run."""
    template: ShortText | None = None
    """Template with `{}` for the class name, or `{a}` for the name with an article; None: the dataset's template."""
    classnames: Annotated[list[ShortText], MANY] | None = None
    """Class names, ordered by class id; None: the dataset's class names."""
    base: Literal["first", "random", "all"] | list[StrictInt | str] = "first"
    """Base classes: the `first` half of the classes, a `random` half (with the seed `base_seed`), `all`, or a list of
    names or ids."""
    base_seed: int = 0
    """Seed for sampling the base classes if `base` is `random`."""
    split_seed: int = 0
    """Seed for the random split of custom data without splits, or for sampling a missing `val` split."""
    resize: int | None = Field(default=None, ge=1)
    """Maximum length of the shorter image side in pixels; `shards pack` downscales larger images. None: no
    downscaling."""


class ImageView(ImageSet):
    """View of an image set with remapped class ids."""

    def __init__(self, images: ImageSet, labels: Ids | None = None) -> None:
        self.images = images
        self.labels = images.labels if labels is None else labels

    def read(self, row: int) -> bytes:
        return self.images.read(row)

    def name(self, row: int) -> str:
        return self.images.name(row)

    def size(self, row: int) -> int | None:
        return self.images.size(row)

    def image(self, row: int) -> Image.Image:
        return self.images.image(row)


class Splits(Mapping[Split, ImageSet]):
    """Mapping from split names to image sets that are opened on first access."""

    def __init__(self, names: Iterable[Split], opener: Callable[[Split], ImageSet]) -> None:
        self._names, self._open = tuple(names), cache(opener)

    def __getitem__(self, name: Split) -> ImageSet:
        if name not in self._names:
            raise KeyError(name)
        return self._open(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # `Mapping.__contains__` would open the split

    def __iter__(self) -> Iterator[Split]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Dataset:
    """Classes, template and real images. A class id is an index into `classnames`; names need not be unique.

    The first classes are the base classes, which have real training images; the others are novel.

    Attributes:
        base_count: number of base classes; None: half of the classes, rounded up.
        only: ids of the candidate classes; None: all classes. ImageNet-A, for example, uses a subset of ImageNet's ids.
        whole_train: (N,) class ids of the full training split, if `splits["train"]` is a subset of it.
        open_part: function that opens the training subset and returns its ascending row indices in the full split.
        trained: ids of the classes with training images; None: derived from the labels.
        skipped: files in the dataset's folders that are not read as images.
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
    skipped: SkippedFiles = field(default_factory=SkippedFiles, repr=False)

    def __post_init__(self) -> None:
        if len(self.classnames) < 2:
            raise UserError(f"dataset {self.name!r} has {len(self.classnames)} class; at least 2 classes are required.")
        if len(self.classnames) > MOST_CLASSES:
            count = f"{len(self.classnames):,} classes, more than the supported maximum of {MOST_CLASSES:,}"
            raise UserError(f"dataset {self.name!r} has {count}; select a subset.")
        for label, name in enumerate(self.classnames):
            if not name.replace("_", " ").strip() or not name.isprintable():
                raise UserError(
                    f"dataset {self.name!r}: class {label} has an unreadable name ({name!r}); rename the class, "
                    "or set dataset.classnames."
                )
        if "{}" not in self.template and ARTICLE not in self.template:
            raise UserError(
                f"dataset {self.name!r}: template {self.template!r} must contain '{{}}' for the class name."
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
        """Ids of the candidate classes in ascending order."""
        return list(range(len(self.classnames))) if self.only is None else sorted(self.only)

    def prompt(self, label: int) -> str:
        """Return the prompt for a class, with the class name inserted into the template."""
        return filled(self.template, self.classnames[label])

    def without_training(self, classes: Iterable[int]) -> list[str]:
        """Return the names of the given classes that have no training images, without opening packed splits."""
        labels = set(np.unique(self.split("train").labels).tolist()) if self.trained is None else self.trained
        return [self.classnames[label] for label in classes if label not in labels]

    def split(self, name: Split) -> ImageSet:
        """Return the images of a split, or raise a `UserError` if it does not exist."""
        if name not in self.splits:
            raise UserError(f"dataset {self.name!r} has no split {name!r}; available splits: {', '.join(self.splits)}.")
        return self.splits[name]

    def with_images(self, change: Callable[[Split, ImageSet], ImageSet]) -> Dataset:
        """Return a copy of the dataset whose image sets are transformed with `change` on first access."""
        return replace(self, splits=Splits(self.splits, lambda split: change(split, self.splits[split])))

    def few_shot(self, shots: int, seed: int, classes: Literal["base", "all"] = "base") -> Ids:
        """Sample few-shot rows of the training split, as in the literature.

        Args:
            shots: number of images per class, at least 1; a class with fewer images contributes all of its images.
            classes: "base" for base-to-novel evaluation, "all" for few-shot learning on all classes.

        Raises:
            UserError: `shots` is less than 1, a class has no images, or sampled images are not packed.
        """
        if shots < 1:
            raise UserError(f"dataset.shots is {shots}; training on real images requires at least 1 image per class.")
        wanted = self.base if classes == "base" else range(len(self.classnames))
        labels = self.split("train").labels if self.whole_train is None else self.whole_train
        present = set(np.unique(labels).tolist())  # `trained` may include classes of unreadable tables
        if empty := [self.classnames[label] for label in wanted if label not in present]:
            count = f"{len(empty)} of the {'base ' if classes == 'base' else ''}classes have no training images"
            raise UserError(
                f"dataset {self.name!r}: {count} ({few(map(repr, empty))}); add images or remove the classes."
            )
        rows = choose_rows(labels, shots, seed, wanted)
        return rows if self.open_part is None else self._packed(rows, shots, seed)

    def _packed(self, rows: Ids, shots: int, seed: int) -> Ids:
        """Convert row indices in the full training split to row indices in the packed subset."""
        assert self.open_part is not None
        part = self.open_part()
        positions = np.searchsorted(part, rows)
        packed = positions < len(part)
        packed[packed] = part[positions[packed]] == rows[packed]
        if not packed.all():
            missing = f"{int((~packed).sum())} of the {len(rows)} images for {shots} shots with seed {seed}"
            remedy = f"pack the dataset again with --shots {shots} --seeds {seed}"
            raise UserError(f"dataset {self.name!r}: {missing} are not packed; {remedy}.")
        return positions.astype(np.int64)


def choose_rows(labels: Iterable[int], per_class: int, seed: int, wanted: Iterable[int]) -> Ids:
    """Sample training rows for few-shot learning.

    All classes are sampled before the `wanted` classes are selected, which reproduces the samples of published runs
    (CoOp, arXiv 2109.01134, seeds 1 to 3).

    Args:
        labels: class id of each row.
        per_class: number of rows per class; a class with fewer rows contributes all of its rows, in order.
        wanted: ids of the classes to return.

    Returns:
        Row indices grouped by class, with classes in order of first appearance and their rows in sampling order.
    """
    rows_of: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(int(label), []).append(row)
    generator, keep, chosen = random.Random(seed), set(wanted), list[int]()
    for label, rows in rows_of.items():
        sampled = rows if len(rows) < per_class else generator.sample(rows, per_class)
        chosen += sampled if label in keep else []
    return np.array(chosen, dtype=np.int64)


def with_base(dataset: Dataset, base: Literal["random", "all"] | Sequence[str | int], seed: int) -> Dataset:
    """Reorder the classes of a dataset so that the base classes come first.

    Args:
        base: "random" (a random half of the classes), "all", or the names or ids of the base classes.

    Raises:
        UserError: a name or id is unknown, or a name is ambiguous.
    """
    count = len(dataset.classnames)
    if base == "all":
        return replace(dataset, base_count=count)
    if base == "random":
        chosen = random.Random(seed).sample(range(count), (count + 1) // 2)
    else:
        assert not isinstance(base, str)
        chosen = [_class_id(dataset, name) for name in base]
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
            raise UserError(f"dataset.base: {wanted} is not a class id; class ids range from 0 to {len(names) - 1}.")
        return wanted
    matches = [label for label, name in enumerate(names) if name == wanted]
    if not matches:
        raise UserError(f"dataset.base: {dataset.name!r} has no class named {wanted!r}; use a different name or an id.")
    if len(matches) > 1:
        ids = " and ".join(map(str, matches))
        raise UserError(f"dataset.base: classes {ids} share the name {wanted!r}; use ids instead of names.")
    return matches[0]
