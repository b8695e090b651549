"""Load a `Dataset` by its name or path."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import regex
from pydantic import BaseModel, Field

from syncclip import embedded, storage
from syncclip.core.settings import UserError
from syncclip.core.text import nearest, readable_name
from syncclip.datasets.catalog import DATASETS
from syncclip.datasets.dataset import TEMPLATE, Dataset, DatasetSettings, Split, Splits, with_base
from syncclip.datasets.folders import FolderSet, folders_in, load_folder, require_files
from syncclip.datasets.layouts import load_layout
from syncclip.datasets.packed import PACKED_FILE, load_packed
from syncclip.datasets.tables import KINDS, find_metadata, load_table
from syncclip.datasets.webdataset import find_tars, load_webdataset
from syncclip.shards.images import SkippedFiles
from syncclip.shards.reader import ImageSet
from syncclip.storage.exports import read_manifest

SHIPPED = {"icons": "icons/dataset", "symbols": "icons/symbols"}
"""Mapping from the name of a shipped suite to its folder in the package."""

SUITE_FILE = "suite.json"
"""Name of the file that describes a suite."""


class Suite(BaseModel):
    """Content of `suite.json`: datasets whose results are averaged, such as the eleven benchmark datasets."""

    datasets: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]] = Field(min_length=2)
    """Names of the dataset folders; the "flowers" folder of the "mine" suite is the dataset "mine/flowers"."""


def suite_of(settings: DatasetSettings) -> dict[str, DatasetSettings]:
    """Return the datasets of a suite, keyed by folder name, or {} for a single dataset."""
    if settings.name in DATASETS or not storage.exists(file := storage.join(_url(settings), SUITE_FILE)):
        return {}
    suite = storage.read_document(file, Suite, "list the suite's dataset folders in the file", checksum_required=False)
    assert suite is not None, "the file exists"
    return {
        name: settings.model_copy(update={"name": f"{settings.name.rstrip('/')}/{name}"}) for name in suite.datasets
    }


def load_dataset(settings: DatasetSettings) -> Dataset:
    """Load a bundled dataset, a benchmark dataset or custom data, and apply `settings.base`.

    Images are read on access.

    Raises:
        UserError: the name is unknown, the data is malformed, or a base class has no training images.
    """
    dataset = read_dataset(settings)
    if settings.base != "first":
        dataset = with_base(dataset, settings.base, settings.base_seed)
    # Checked before synthesis, because few-shot sampling would fail only afterwards.
    empty = dataset.without_training(dataset.base) if "train" in dataset.splits else []
    if empty:
        others = f" and {len(empty) - 1} more" if empty[1:] else ""
        raise UserError(
            f"dataset {dataset.name!r}: no training images for base class {empty[0]!r}{others}; add images, or "
            "exclude classes without images from dataset.base."
        )
    return dataset


def read_dataset(settings: DatasetSettings) -> Dataset:
    """Load a dataset with its classes in their original order, ignoring `base`."""
    name, root, url = settings.name, settings.root, _url(settings)
    custom = False
    if root is None and name in DATASETS:
        raise UserError(
            f"dataset {name!r} is read from a local folder; specify the folder with --root DIR or dataset.root=DIR "
            "(`syncclip datasets ls` lists downloads)."
        )
    if storage.exists(file := storage.join(url, PACKED_FILE)):
        dataset = load_packed(file)
    elif suite := suite_of(settings):
        first = next(iter(suite.values())).name
        raise UserError(
            f"{name!r} is a suite of {len(suite)} datasets; select one dataset, such as {first!r} (only `syncclip "
            "study` and `syncclip tune` run all datasets of a suite)."
        )
    elif root is None and name.partition("/")[0] in SHIPPED:
        raise UserError(f"unknown bundled dataset {name!r}; {_alternatives(name.partition('/')[0])}")
    elif name not in DATASETS:
        try:
            dataset, custom = _custom(settings, url), True
        except UserError as error:
            if settings.classnames or (kind := storage.kind_of(url)) is None or kind[0] == "an export":
                raise
            fix = "use its dataset of real images instead" + (", or set dataset.classnames" if "set" in kind[0] else "")
            raise UserError(f"{url} is {kind[0]}, not a dataset of labelled images; {fix}.") from error
    elif storage.is_local(str(root)):
        dataset = load_layout(DATASETS[name], storage.local_path(str(root)))
    else:
        raise UserError(f"{root}: {name!r} is not packed; pack a local copy of it with `syncclip shards pack`.")
    if settings.template is not None:
        dataset = replace(dataset, template=settings.template)
    if settings.classnames is not None:
        if len(settings.classnames) != len(dataset.classnames):
            raise UserError(
                f"dataset.classnames has {len(settings.classnames)} names, but {dataset.name!r} has "
                f"{len(dataset.classnames)} classes; list one name per class, ordered by class id."
            )
        dataset = replace(dataset, classnames=settings.classnames)
    if name not in DATASETS or settings.classnames is not None:
        # Names may repeat in a packed dataset, as in ImageNet.
        _check_names(dataset, may_repeat=not custom and settings.classnames is None)
    return dataset


def image_files(settings: DatasetSettings) -> dict[Split, list[tuple[str, int | None]]]:
    """Return the (name, size in bytes) of each split's images in custom data.

    Returns {} for shipped, benchmark and packed datasets, whose splits are fixed.
    """
    url = _url(settings)
    if settings.name in DATASETS or url.startswith(str(embedded.FOLDER)):
        return {}
    splits = read_dataset(settings).splits
    return {
        split: [(images.name(row).removeprefix(url), images.size(row)) for row in range(len(images))]
        for split, images in ({} if isinstance(splits, Splits) else splits).items()
    }


def _alternatives(suite: str) -> str:
    """Return the fragment of an error message that lists the datasets of a shipped suite."""
    folder = embedded.FOLDER / SHIPPED[suite]
    return f"available: {', '.join(names)}" if (names := bundled(suite)) else f"{folder} is missing; reinstall syncclip"


def bundled(suite: str) -> list[str]:
    """Return the names of the datasets of a shipped suite."""
    folder = embedded.FOLDER / SHIPPED[suite]
    return [f"{suite}/{child.name}" for child in folders_in(folder)] if folder.is_dir() else []


def is_dataset_name(name: str) -> bool:
    """Return whether `name` is a shipped or benchmark dataset rather than a path."""
    return name.partition("/")[0] in SHIPPED or name in DATASETS


def _custom(settings: DatasetSettings, url: str) -> Dataset:
    """Load custom data from a path or URL."""
    path = Path(url)
    if storage.is_local(url) and not path.exists():
        raise UserError(_not_found(settings, url))
    if path.is_file() and path.suffix not in KINDS:
        raise UserError(f"{url}: not a table ({', '.join(KINDS)}); convert the file, or specify an image folder.")
    name = str(path.resolve() if storage.is_local(url) else path).rpartition("/")[2]
    splits: Mapping[Split, ImageSet]
    skipped = SkippedFiles()
    if not path.is_file() and (tars := find_tars(url)):
        names, splits = load_webdataset(url, tars, settings.classnames, settings.split_seed, skipped)
    elif storage.is_local(url):
        tables: dict[Split | None, Path] = {None: path} if path.is_file() else find_metadata(path)
        if tables:
            name = Path(name).stem
            names, files = load_table(tables, settings.classnames, settings.split_seed)
        else:
            names, files = load_folder(path, settings.split_seed, skipped)
        manifest = read_manifest(url) if path.is_dir() else None
        exported = {str(path / name): file.sha256 for name, file in (manifest.files or {} if manifest else {}).items()}
        if manifest is not None:
            require_files(list(exported), f"manifest of {url}")
        splits = {split: FolderSet(items, exported) for split, items in files.items()}
    else:
        raise UserError(f"{url}: no {PACKED_FILE} or tars found; pack a remote dataset with `syncclip shards pack`.")
    return Dataset(name, [readable_name(name) for name in names], TEMPLATE, splits, skipped=skipped)


def _url(settings: DatasetSettings) -> str:
    suite, _, child = settings.name.partition("/")
    if settings.root is None and suite in SHIPPED:
        return str(embedded.FOLDER / SHIPPED[suite] / child)
    url = settings.name if settings.root is None else storage.join(settings.root, settings.name)
    return str(storage.local_path(url)) if storage.is_local(url) else url


def _check_names(dataset: Dataset, may_repeat: bool) -> None:
    """Raise a `UserError` if two class names have the same tokens."""
    first: dict[str, int] = {}
    for label, name in enumerate(dataset.classnames):
        other = first.setdefault(clip_words(name), label)
        previous = dataset.classnames[other]
        if other == label or (previous == name and may_repeat):
            continue
        show = repr if (previous + name).isascii() else ascii  # different letters may look alike
        pair = f"{show(previous)} and {show(name)}"
        names = f"share the name {name!r}" if previous == name else f"have the equivalent names {pair}"
        raise UserError(
            f"dataset {dataset.name!r}: classes {other} and {label} {names}, so CLIP gets the same prompt for "
            "both classes; rename or merge the classes, or set dataset.classnames."
        )


def clip_words(classname: str) -> str:
    """Split a class name into words as CLIP's tokenizers do; identical words produce identical tokens.

    Because the tokenizers drop spaces and split off digits, "MD80" and "MD 80" produce the same tokens.

    Source: `basic_clean`, `_clean_lower` and `pat` of open_clip's tokenizer.
    """
    if classname.isascii():
        text = html.unescape(html.unescape(classname))
    else:
        from open_clip.tokenizer import basic_clean  # slow to import

        text = basic_clean(classname)
    return " ".join(regex.findall(embedded.CLIP_WORD, readable_name(text).lower()))


def _not_found(settings: DatasetSettings, url: str) -> str:
    if settings.root is not None or settings.name.startswith(("~", ".")) or "/" in settings.name:
        return f"dataset folder {url} does not exist; correct dataset.name or dataset.root."
    names = [*SHIPPED, *DATASETS]
    near = nearest(settings.name, names)
    hint = f"did you mean {near!r}? " if near else ""
    return (
        f"unknown dataset {settings.name!r}; {hint}Available: {', '.join(names)}, or the path of a folder with one "
        "subfolder of images per class."
    )
