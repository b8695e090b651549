"""Benchmark datasets in CoOp's layouts: split files, name lists, and folders named after WordNet ids.

Files that are not part of a layout, such as pickles of CoOp's few-shot samples, are never opened.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from syncclip.core.formats import parse_json
from syncclip.core.settings import UserError
from syncclip.core.text import cut, few, readable_name
from syncclip.datasets.catalog import INSTRUCTIONS, CatalogEntry
from syncclip.datasets.dataset import SPLITS, Dataset, Split
from syncclip.datasets.folders import FolderSet, folders_in, images_in, require_files, text_lines
from syncclip.datasets.labels import ImageRecord, Labelled, assign_ids
from syncclip.shards.images import SkippedFiles


def load_layout(entry: CatalogEntry, root: Path) -> Dataset:
    """Load a benchmark dataset from `root` without opening the images."""
    folder = root / entry.folder
    for path, kind in ((root, "dataset folder"), (folder, f"folder of {entry.name}")):
        if not path.is_dir():
            raise UserError(f"{path}: {kind} not found; {_instructions(entry)}")
    if not (folder / entry.names).is_file():
        raise UserError(f"{folder / entry.names}: file not found; {_instructions(entry)}")
    if not (folder / entry.images).is_dir():
        raise UserError(f"{folder / entry.images}: image folder not found; {_instructions(entry)}")
    only: list[int] | None = None
    skipped = SkippedFiles()
    if entry.layout == "split file":
        names, splits = read_split_file(folder / entry.names, folder / entry.images)
    elif entry.layout == "name lists":
        names, splits = _read_name_lists(entry, folder)
    else:
        names, splits, only = _read_class_folders(entry, folder, skipped)
    return Dataset(
        name=entry.name,
        classnames=[readable_name(name) for name in names],
        template=entry.template,
        splits={split: FolderSet(files) for split, files in splits.items()},
        only=only,
        skipped=skipped,
    )


def read_split_file(file: Path, images: Path) -> tuple[list[str], dict[Split, Labelled[str]]]:
    """Read class names and image paths from a `split_*.json` file."""
    entries = split_entries(file)
    records = [
        ImageRecord(label, str(file), name, split) for split, items in entries.items() for _, label, name in items
    ]
    if not records:
        raise UserError(f"{file}: no images listed; download the file again ({INSTRUCTIONS}).")
    names, _ = assign_ids(records, str(file), None)
    splits: dict[Split, Labelled[str]] = {
        split: [(f"{images}/{path}", label) for path, label, _ in items] for split, items in entries.items()
    }
    require_files([path for items in splits.values() for path, _ in items], str(file))
    return names, splits


def split_entries(file: Path) -> dict[Split, list[tuple[str, int, str]]]:
    """Read the non-empty lists of a split file; entries are (path relative to the images, class id, class name)."""
    content = parse_json(file.read_bytes(), str(file), object, f"download the file again ({INSTRUCTIONS})")
    if not isinstance(content, dict) or not isinstance(content.get("train"), list):
        lists = "'train', 'val' and 'test' lists"
        raise UserError(f"{file}: not a split file with {lists}; download the file again ({INSTRUCTIONS}).")
    return {
        split: [_entry(item, f"{file}: {split}[{position}]") for position, item in enumerate(content[split])]
        for split in SPLITS
        if isinstance(content.get(split), list) and content[split]
    }


def _entry(item: Any, location: str) -> tuple[str, int, str]:
    match item:
        case [str(path), int(label) | str(label), str(name)] if str(label).removeprefix("-").isdecimal():
            if int(label) < 0:
                raise UserError(f"{location}: label {label} is out of range; class ids start at 0.")
            if ".." in PurePosixPath(path).parts or PurePosixPath(path).is_absolute():
                raise UserError(f"{location}: {path!r} is outside the image folder; fix the file.")
            return path, int(label), name
    raise UserError(f"{location}: {cut(repr(item))} is not of the form [path, class id, class name]; fix the file.")


def _read_name_lists(entry: CatalogEntry, folder: Path) -> tuple[list[str], dict[Split, Labelled[str]]]:
    """Read FGVC-Aircraft: class names from `variants.txt`, images from lists with lines like `1234567 class name`."""
    names_file = folder / entry.names
    names = [line for _, line in text_lines(names_file.read_bytes(), str(names_file))]
    ids = {name: label for label, name in enumerate(names)}
    splits: dict[Split, Labelled[str]] = {}
    for split in SPLITS:
        file = folder / f"images_variant_{split}.txt"
        if not file.is_file():
            raise UserError(f"{file}: file not found; {_instructions(entry)}")
        splits[split] = []
        for number, line in text_lines(file.read_bytes(), str(file)):
            image, _, name = line.partition(" ")
            if name not in ids:
                raise UserError(f"{file}, line {number}: {name!r} is not listed in {entry.names}; fix the file.")
            splits[split].append((f"{folder / entry.images}/{image}.jpg", ids[name]))
        require_files([path for path, _ in splits[split]], str(file))
    return names, splits


def _read_class_folders(
    entry: CatalogEntry, folder: Path, skipped: SkippedFiles
) -> tuple[list[str], dict[Split, Labelled[str]], list[int] | None]:
    """Read class names, image files and candidate class ids (None: all classes) of ImageNet or a variant.

    A class id is the rank of the WordNet id among those in `classnames.txt`, even in variants with fewer classes.
    """
    name_of = _classnames(folder / entry.names)
    ranks = {wordnet: label for label, wordnet in enumerate(sorted(name_of))}
    names = [name_of[wordnet] for wordnet in ranks]
    by_number = list(name_of) if entry.layout == "numbered folders" else None
    splits: dict[Split, Labelled[str]] = {}
    for split, subfolder in entry.splits:
        parent = folder / entry.images / subfolder
        if not parent.is_dir():
            raise UserError(f"{parent}: image folder not found; {_instructions(entry)}")
        folders = {ranks[_wordnet(child, by_number, name_of, entry)]: child for child in folders_in(parent)}
        if not folders:
            raise UserError(f"{parent}: no class folders; {_instructions(entry)}")
        empty = sorted(set(ranks.values()) - set(folders))
        if empty and not entry.partial:
            count = f"{len(empty):,} of {len(names):,} classes in {entry.names} have no folder"
            raise UserError(f"{parent}: {count} ({few([names[label] for label in empty])}); unpack the dataset again.")
        splits[split] = [
            (path, label) for label, child in sorted(folders.items()) for path in images_in(child, skipped)
        ]
    return names, splits, sorted(folders) if entry.partial and empty else None


def _classnames(file: Path) -> dict[str, str]:
    """Return the class names in `classnames.txt`, keyed by WordNet id, in file order."""
    name_of: dict[str, str] = {}
    for number, line in text_lines(file.read_bytes(), str(file)):
        wordnet, _, name = line.partition(" ")
        if not name or wordnet in name_of:
            raise UserError(
                f"{file}, line {number}: {line!r} has no class name, or repeats a WordNet id; fix the file."
            )
        name_of[wordnet] = name.strip()
    return name_of


def _wordnet(folder: Path, by_number: list[str] | None, wordnet_ids: Collection[str], entry: CatalogEntry) -> str:
    """Return the WordNet id of a class folder; if `by_number` is set, the folder's name is an index into it."""
    if by_number is None:
        if folder.name not in wordnet_ids:
            raise UserError(f"{folder}: class not listed in {entry.names}; remove the folder or fix the list.")
        return folder.name
    if not folder.name.isdecimal() or int(folder.name) >= len(by_number):
        numbers = f"0 to {len(by_number) - 1}, the line numbers in {entry.names}"
        raise UserError(f"{folder}: label out of range; folder names must be {numbers}.")
    return by_number[int(folder.name)]


def _instructions(entry: CatalogEntry) -> str:
    return f"see CoOp's instructions for download and layout: {INSTRUCTIONS} ({entry.name})."
