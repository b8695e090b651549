"""From the name of a dataset, or the path of a user's data, to a `Dataset`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from syncclip import embedded, storage
from syncclip.clip.prompt_text import as_clip_reads, spoken
from syncclip.core.settings import UserError
from syncclip.core.text import nearest
from syncclip.datasets.catalog import DATASETS
from syncclip.datasets.dataset import TEMPLATE, Dataset, DatasetSettings, Split, with_base
from syncclip.datasets.files import FolderSet, folders_in, require_files
from syncclip.datasets.folders import load_folder
from syncclip.datasets.layouts import load_layout
from syncclip.datasets.packed import PACKED_FILE, find_packed, load_packed
from syncclip.datasets.tables import KINDS, find_metadata, load_table
from syncclip.datasets.webdataset import find_tars, load_webdataset
from syncclip.shards.reader import ImageSet
from syncclip.storage.exports import read_manifest

SHIPPED = {"icons": "icons/dataset"}
"""Datasets and suites that come with the package, and their folders in it."""

SUITE_FILE = "suite.json"
"""In the folder of a suite."""


class Suite(BaseModel):
    """Content of `suite.json`: several datasets whose results are averaged, as the literature averages its eleven."""

    datasets: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]] = Field(min_length=2)
    """Their folders, beside the file; "flowers" of the suite "mine" is the dataset "mine/flowers"."""


def suite_of(settings: DatasetSettings) -> dict[str, DatasetSettings]:
    """The datasets of a suite by the names of their folders; empty where the settings name a single dataset.

    Raises:
        UserError: `suite.json` is broken.
    """
    place = _place(settings)
    if settings.name in DATASETS or not storage.exists(file := storage.join(place, SUITE_FILE)):
        return {}
    suite = storage.read_document(file, Suite, "name the folders of its datasets in it", sealed=False)
    assert suite is not None, "it was there a moment ago"
    return {one: settings.model_copy(update={"name": f"{settings.name.rstrip('/')}/{one}"}) for one in suite.datasets}


def load_dataset(settings: DatasetSettings) -> Dataset:
    """Load a shipped dataset, one of the literature, or a user's own data, with the base classes of the settings.

    Images are read when they are used, not here.

    Raises:
        UserError: the name is unknown, the data is malformed, or a base class has no training image.
    """
    dataset = read_dataset(settings)
    if settings.base != "first":
        dataset = with_base(dataset, settings.base, settings.base_seed)
    # Refused before the synthesis, instead of by the few-shot choice after it.
    without = dataset.without_training(dataset.base) if "train" in dataset.splits else []
    if without:
        raise UserError(
            f"dataset {dataset.name!r}: no training image of base class {without[0]!r}"
            f"{f' and {len(without) - 1} more' if without[1:] else ''}; add some, or make it novel with dataset.base."
        )
    return dataset


def read_dataset(settings: DatasetSettings) -> Dataset:
    """`load_dataset` with the classes in the data's own order.

    Raises:
        UserError: see `load_dataset`.
    """
    name, root, place = settings.name, settings.root, _place(settings)
    own = False
    if root is None and name in DATASETS:
        raise UserError(
            f"dataset {name!r} is read from your disk; give the folder of the datasets with --root DIR, or in a recipe "
            "with dataset.root=DIR; `syncclip datasets ls` lists where to get them."
        )
    if file := find_packed(place):
        dataset = load_packed(file)
    elif suite := suite_of(settings):
        one = next(iter(suite.values())).name
        raise UserError(
            f"{name!r} is a suite of {len(suite)} datasets; name one of them, such as {one!r} (`syncclip study` and "
            "`syncclip choose` run all of them)."
        )
    elif root is None and name.partition("/")[0] in SHIPPED:
        raise UserError(f"there is no dataset {name!r} in syncclip; {_choice(name.partition('/')[0])}")
    elif name not in DATASETS:
        dataset, own = _own(settings, place), True
    elif storage.is_local(str(root)):
        dataset = load_layout(DATASETS[name], storage.local_path(str(root)))
    else:
        raise UserError(f"{root}: {name} is read from a local folder; pack it once with `syncclip shards pack`.")
    if settings.template is not None:
        dataset = replace(dataset, template=settings.template)
    if settings.classnames is not None:
        if len(settings.classnames) != len(dataset.classnames):
            raise UserError(
                f"dataset.classnames holds {len(settings.classnames)} names, but {dataset.name!r} has "
                f"{len(dataset.classnames)} classes; give one name for each, in the order of their ids."
            )
        dataset = replace(dataset, classnames=settings.classnames)
    if name not in DATASETS or settings.classnames is not None:
        # Names in a packed one may repeat, for so they do in ImageNet.
        _check_names(dataset, may_repeat=not own and settings.classnames is None)
    return dataset


def _choice(shipped: str) -> str:
    """The remedy for an unknown name below that of a shipped suite: all of its datasets."""
    folder = embedded.FOLDER / SHIPPED[shipped]
    names = [f"{shipped}/{one.name}" for one in folders_in(folder)] if folder.is_dir() else []
    return f"choose one of {', '.join(names)}" if names else f"{folder} is missing; install syncclip again"


def known(name: str) -> bool:
    """Whether this is the name of a dataset rather than a path."""
    return name.partition("/")[0] in SHIPPED or name in DATASETS


def _own(settings: DatasetSettings, place: str) -> Dataset:
    """A user's own data, by its path."""
    path = Path(place)
    if storage.is_local(place) and not path.exists():
        raise UserError(_nothing_there(settings, place))
    if path.is_file() and path.suffix not in KINDS:
        raise UserError(f"{place}: a table must end in {', '.join(KINDS)}; or give the folder of the images.")
    name = str(path.resolve() if storage.is_local(place) else path).rpartition("/")[2]
    splits: Mapping[Split, ImageSet]
    skipped: Counter[str] = Counter()
    if not path.is_file() and (tars := find_tars(place)):
        names, splits = load_webdataset(place, tars, settings.classnames, settings.split_seed, skipped)
    elif storage.is_local(place):
        tables: dict[Split | None, Path] = {None: path} if path.is_file() else find_metadata(path)
        if tables:
            name = Path(name).stem
            names, files = load_table(tables, settings.classnames, settings.split_seed)
        else:
            names, files = load_folder(path, settings.split_seed, skipped)
        manifest = read_manifest(place) if path.is_dir() else None
        exported = {str(path / name): file.sha256 for name, file in (manifest.files or {} if manifest else {}).items()}
        if manifest is not None:
            require_files(list(exported), f"{place}, by its manifest")
        splits = {split: FolderSet(of_split, exported) for split, of_split in files.items()}
    else:
        raise UserError(f"{place}: has neither {PACKED_FILE} nor tars; a remote dataset must be packed as shards.")
    return Dataset(name, [spoken(one) for one in names], TEMPLATE, splits, skipped=skipped)


def _place(settings: DatasetSettings) -> str:
    shipped, _, one = settings.name.partition("/")
    if settings.root is None and shipped in SHIPPED:
        return str(embedded.FOLDER / SHIPPED[shipped] / one)
    place = settings.name if settings.root is None else storage.join(settings.root, settings.name)
    return str(storage.local_path(place)) if storage.is_local(place) else place


def _check_names(dataset: Dataset, may_repeat: bool) -> None:
    """Names must differ to CLIP. (The literature's are taken as they are: its figures belong to them.)"""
    first: dict[str, int] = {}
    for label, name in enumerate(dataset.classnames):
        other = first.setdefault(as_clip_reads(name), label)
        before = dataset.classnames[other]
        if other == label or (before == name and may_repeat):
            continue
        shown = repr if (before + name).isascii() else ascii  # two forms of a letter look the same
        called = f"all called {name!r}" if before == name else f"{shown(before)} and {shown(name)}, one name to CLIP"
        raise UserError(
            f"dataset {dataset.name!r}: classes {other} and {label} are {called}, so their prompts would be the same; "
            "rename them, put their images together, or give names with dataset.classnames."
        )


def _nothing_there(settings: DatasetSettings, place: str) -> str:
    looks_like_a_path = settings.root is not None or settings.name.startswith(("~", ".")) or "/" in settings.name
    if looks_like_a_path:
        return f"dataset folder {place} does not exist."
    names = [*SHIPPED, *DATASETS]
    near = nearest(settings.name, names)
    hint = f"did you mean {near!r}? There" if near else "there"
    return (
        f"unknown dataset {settings.name!r}; {hint} are {', '.join(names)}; "
        "or give the path of a folder with one subfolder of images for each class."
    )
