"""Reading the literature's datasets from disk: split files, name lists, folders named by WordNet ids.

Everything is keyed by class id, as names may repeat. Files that are not part of a layout (hidden ones, `README.txt`,
Caltech's `BACKGROUND_Google`, pickles of CoOp's few-shot choices) are never opened.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from syncclip.clip.prompt_text import spoken
from syncclip.core.formats import parse_json
from syncclip.core.settings import UserError
from syncclip.core.text import cut, few
from syncclip.datasets.catalog import INSTRUCTIONS, CatalogEntry
from syncclip.datasets.dataset import SPLITS, Dataset, Split
from syncclip.datasets.files import FolderSet, folders_in, images_in, require_files, text_lines
from syncclip.datasets.labels import ImageRecord, Labelled, assign_ids


def load_layout(entry: CatalogEntry, root: Path) -> Dataset:
    """Read one dataset of the literature from the folder of all of them. No image is opened.

    Raises:
        UserError: the folder, a list or images are missing, or a list is malformed; the message says which, and where
            to get it.
    """
    folder = root / entry.folder
    for place, what in ((root, "folder of the datasets"), (folder, f"folder of {entry.name}")):
        if not place.is_dir():
            raise UserError(f"{place}: this {what} does not exist; {_where(entry)}")
    if not (folder / entry.names).is_file():
        raise UserError(f"{folder / entry.names}: missing; {_where(entry)}")
    if not (folder / entry.images).is_dir():
        raise UserError(f"{folder / entry.images}: the folder of the images is missing; {_where(entry)}")
    only: list[int] | None = None
    skipped: Counter[str] = Counter()
    if entry.layout == "split file":
        names, splits = read_split_file(folder / entry.names, folder / entry.images)
    elif entry.layout == "name lists":
        names, splits = _read_name_lists(entry, folder)
    else:
        names, splits, only = _read_class_folders(entry, folder, skipped)
    return Dataset(
        name=entry.name,
        classnames=[spoken(name) for name in names],
        template=entry.template,
        splits={split: FolderSet(files) for split, files in splits.items()},
        only=only,
        skipped=skipped,
    )


def read_split_file(file: Path, images: Path) -> tuple[list[str], dict[Split, Labelled[str]]]:
    """Class names and images of a `split_*.json`: for each split a list of [path below `images`, class id, name].

    Raises:
        UserError: not such a file, ids or names that contradict each other, or missing images.
    """
    entries = split_entries(file)
    records = [
        ImageRecord(label, str(file), name, split) for split, items in entries.items() for _, label, name in items
    ]
    if not records:
        raise UserError(f"{file}: lists no images; get the file again ({INSTRUCTIONS}).")
    names, _ = assign_ids(records, str(file), None)
    splits: dict[Split, Labelled[str]] = {
        split: [(f"{images}/{path}", label) for path, label, _ in items] for split, items in entries.items()
    }
    require_files([path for items in splits.values() for path, _ in items], str(file))
    return names, splits


def split_entries(file: Path) -> dict[Split, list[tuple[str, int, str]]]:
    """The non-empty lists of a split file: (path below the images, class id, name as written).

    Raises:
        UserError: not such a file, or a malformed entry; the message has its place.
    """
    content = parse_json(file.read_bytes(), str(file), object, f"get the file again ({INSTRUCTIONS})")
    if not isinstance(content, dict) or not isinstance(content.get("train"), list):
        raise UserError(f"{file}: no split file, which has lists 'train', 'val' and 'test'; {INSTRUCTIONS} has it.")
    return {
        split: [_entry(item, f"{file}: {split}[{place}]") for place, item in enumerate(content[split])]
        for split in SPLITS
        if isinstance(content.get(split), list) and content[split]
    }


def _entry(item: Any, place: str) -> tuple[str, int, str]:
    match item:
        case [str(path), int(label) | str(label), str(name)] if str(label).removeprefix("-").isdecimal():
            if int(label) < 0:
                raise UserError(f"{place}: label {label} is out of range; ids count from 0.")
            if ".." in PurePosixPath(path).parts or PurePosixPath(path).is_absolute():
                raise UserError(f"{place}: {path!r} is outside the image folder; fix the file.")
            return path, int(label), name
    raise UserError(f"{place}: {cut(repr(item))} is not [path, class id, class name]; fix the file.")


def _read_name_lists(entry: CatalogEntry, folder: Path) -> tuple[list[str], dict[Split, Labelled[str]]]:
    """FGVC's lists: ids follow the order of `variants.txt`; `images_variant_train.txt` has `1234567 name words`."""
    listed = folder / entry.names
    names = [line for _, line in text_lines(listed.read_bytes(), str(listed))]
    ids = {name: label for label, name in enumerate(names)}
    splits: dict[Split, Labelled[str]] = {}
    for split in SPLITS:
        file = folder / f"images_variant_{split}.txt"
        if not file.is_file():
            raise UserError(f"{file}: missing; {_where(entry)}")
        splits[split] = []
        for number, line in text_lines(file.read_bytes(), str(file)):
            image, _, name = line.partition(" ")
            if name not in ids:
                raise UserError(f"{file}, line {number}: {name!r} is not among the names of {entry.names}.")
            splits[split].append((f"{folder / entry.images}/{image}.jpg", ids[name]))
        require_files([path for path, _ in splits[split]], str(file))
    return names, splits


def _read_class_folders(
    entry: CatalogEntry, folder: Path, skipped: Counter[str]
) -> tuple[list[str], dict[Split, Labelled[str]], list[int] | None]:
    """ImageNet and its variants: class names, files, and the candidate ids, None for all.

    A class's id is the rank of its WordNet id among those of `classnames.txt`; in ImageNet this is the rank of its
    folder. A variant with images of few classes keeps these ids, so that prompts learned on ImageNet are tested on the
    same classes.
    """
    listed = _classnames(folder / entry.names)
    ranks = {wordnet: label for label, wordnet in enumerate(sorted(listed))}
    names = [listed[wordnet] for wordnet in ranks]
    keys = list(listed) if entry.layout == "numbered folders" else None
    splits: dict[Split, Labelled[str]] = {}
    for split, below in entry.splits:
        place = folder / entry.images / below
        if not place.is_dir():
            raise UserError(f"{place}: the folder of the images is missing; {_where(entry)}")
        folders = {ranks[_wordnet(one, keys, listed, entry)]: one for one in folders_in(place)}
        if not folders:
            raise UserError(f"{place}: has no class folders; {_where(entry)}")
        without = sorted(set(ranks.values()) - set(folders))
        if without and not entry.partial:
            raise UserError(
                f"{place}: {len(without):,} of {len(names):,} classes of {entry.names} have no folder there "
                f"({few([names[label] for label in without])}); unpack the dataset again."
            )
        splits[split] = [(path, label) for label, one in sorted(folders.items()) for path in images_in(one, skipped)]
    return names, splits, sorted(folders) if entry.partial and without else None


def _classnames(file: Path) -> dict[str, str]:
    """WordNet id -> name, in the order of `classnames.txt`."""
    listed: dict[str, str] = {}
    for number, line in text_lines(file.read_bytes(), str(file)):
        wordnet, _, name = line.partition(" ")
        if not name or wordnet in listed:
            raise UserError(f"{file}, line {number}: {line!r} is not a new WordNet id with a name; get the file again.")
        listed[wordnet] = name.strip()
    return listed


def _wordnet(folder: Path, keys: list[str] | None, listed: dict[str, str], entry: CatalogEntry) -> str:
    """The WordNet id of a class folder, by its name or (given `keys`) by its number."""
    if keys is None:
        if folder.name not in listed:
            raise UserError(f"{folder}: no class of this name in {entry.names}; remove the folder or fix the list.")
        return folder.name
    if not folder.name.isdecimal() or int(folder.name) >= len(keys):
        raise UserError(
            f"{folder}: label out of range; folders are numbered by their line in {entry.names}, 0 to {len(keys) - 1}."
        )
    return keys[int(folder.name)]


def _where(entry: CatalogEntry) -> str:
    return f"CoOp's instructions describe where to get it and its layout: {INSTRUCTIONS} ({entry.name})."
