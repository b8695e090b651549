"""The images of a synthetic set that others made, in a folder with a split file or in tars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from syncclip import storage
from syncclip.clip.prompt_text import spoken
from syncclip.core.settings import UserError
from syncclip.core.text import few
from syncclip.datasets.dataset import Dataset
from syncclip.datasets.files import FolderSet, require_files
from syncclip.datasets.layouts import split_entries
from syncclip.shards.reader import ImageSet
from syncclip.shards.webdataset import TarSet, index_tars, tars_in
from syncclip.storage.exports import require_export


def open_source(
    source: str, dataset: Dataset, images: str | None, skipped: Counter[str] | None
) -> tuple[ImageSet, Sequence[str]]:
    """The images of a source, with ids of the dataset's classes, and a text for each ("" for none)."""
    require_export(source, source.rstrip("/").rpartition("/")[0] or ".")  # tars of an export lie in its folder `data`
    if tars := _tars(source):
        members = index_tars(tars, skipped)
        labels = [_checked(member.label, dataset, f"{tars[member.tar]}:{member.key}") for member in members]
        return TarSet(tars, members, labels), [member.text for member in members]
    file = _split_file(source)
    entries = split_entries(file)["train"]
    folder = Path(images) if images is not None else _beside(file, entries[0][0])
    labels = [_checked(label, dataset, f"{file}: {path}") for path, label, _ in entries]
    files = [f"{folder}/{path}" for path, _, _ in entries]
    require_files(files, str(file))
    names = {label: name for _, label, name in entries}
    other = [
        f"{dataset.classnames[label]!r} is {name!r}"
        for label, name in names.items()
        if spoken(name).lower() != dataset.classnames[label].lower()
    ]
    if 2 * len(other) > len(names):
        raise UserError(
            f"{file}: shows other classes than {dataset.name!r}, or numbers them otherwise: {len(other)} of "
            f"{len(names)} names differ ({few(other)}); name the dataset that it was made for."
        )
    return FolderSet(zip(files, labels, strict=True)), [""] * len(files)


def _tars(source: str) -> list[str]:
    if storage.is_local(source) and not storage.local_path(source).is_dir():
        return []
    return tars_in(source) or tars_in(storage.join(source, "train"))


def _split_file(source: str) -> Path:
    place = storage.local_path(source) if storage.is_local(source) else None
    if place is None or not place.exists():
        raise UserError(f"{source}: no such folder, or no tars in it; give a split file, its folder, or tars.")
    if place.is_file():
        return place
    found = sorted(place.glob("split_*.json")) or sorted(place.glob("*.json"))
    if len(found) != 1:
        listed = (
            f"several split files ({few(file.name for file in found)})" if found else "neither tars nor a split file"
        )
        raise UserError(f"{source}: holds {listed}; name the one to be read.")
    return found[0]


def _beside(file: Path, first: str) -> Path:
    """The folder that holds the first image of a split file: the file's own, or one in it."""
    for folder in [file.parent, *sorted(one for one in file.parent.iterdir() if one.is_dir())]:
        if (folder / first).is_file():
            return folder
    raise UserError(f"{file}: {first} is neither beside it nor in a folder beside it; name the folder with --images.")


def _checked(label: str | int, dataset: Dataset, place: str) -> int:
    if not isinstance(label, int):
        raise UserError(
            f"{place}: the class is given as {label!r}; class ids are numbers, as those of {dataset.name!r}."
        )
    if not 0 <= label < len(dataset.classnames):
        raise UserError(
            f"{place}: label {label} is out of range; {dataset.name!r} has {len(dataset.classnames)} classes "
            f"(0 to {len(dataset.classnames) - 1})."
        )
    return label
