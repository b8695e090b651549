"""Users' own images listed in a table of paths and labels: a CSV, JSON lines or parquet file.

The table is named itself or found in an image folder as Hugging Face's `datasets` defines it: `metadata.csv`, `.jsonl`
or `.parquet` beside the images, or one in each of the folders `train`, `validation` and `test`.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.settings import UserError
from syncclip.datasets.dataset import Split
from syncclip.datasets.files import folders_in, require_files
from syncclip.datasets.folders import split_folders
from syncclip.datasets.labels import SPLIT_FOLDERS, ImageRecord, Labelled, names_and_splits

KINDS = (".csv", ".jsonl", ".parquet")
COLUMNS = {
    "path": ("path", "file_name", "file", "filename", "image"),
    "label": ("label", "class", "category"),
    "name": ("classname", "class_name", "label_name"),
    "split": ("split",),
}
"""What is read, and possible names of its column, of which the first found counts. Name and split are optional."""

Row = tuple[str, ImageRecord]
"""An image's file, and what the table states about it."""


def find_metadata(folder: Path) -> dict[Split | None, Path]:
    """The tables of an image folder: one for all splits (None), or one in the folder of each; {} where there is none.

    A table not called `metadata` counts if it is the only one and the folder is no folder of class folders.
    """
    whole = _metadata(folder)
    if whole is not None:
        return {None: whole}
    below = folders_in(folder)
    found = {split: file for split, place in split_folders(below).items() if (file := _metadata(place)) is not None}
    if found or len(below) > 1:
        return found
    tables = [file for file in folder.iterdir() if file.suffix in KINDS and not file.name.startswith(".")]
    return {None: tables[0]} if len(tables) == 1 else {}


def load_table(
    tables: dict[Split | None, Path], classnames: Sequence[str] | None, split_seed: int
) -> tuple[list[str], dict[Split, Labelled[str]]]:
    """Class names and files of tables of paths and labels; paths are relative to the folder of their table.

    Labels are texts, the class names, whose ids follow their order; or numbers, the ids, with names in a column of
    their own or given. Splits are stated in a column or by the folder that a path begins with; else they are drawn.

    Args:
        tables: of each split, or of all (None).
        classnames: names by id, where labels are numbers.
        split_seed: of the random split where the tables state none, and of a missing validation split.

    Raises:
        UserError: a table cannot be read, a column or a value is missing or wrong, images are not there, or a class
            has too few.
    """
    source = str(next(iter(tables.values())))
    rows = [row for split, file in tables.items() for row in _rows(file, split)]
    if not rows:
        raise UserError(f"{source}: lists no images.")
    paths, records = [path for path, _ in rows], [record for _, record in rows]
    require_files(paths, source)
    found = names_and_splits(paths, records, source, classnames, split_seed)
    _check_unique(rows)
    return found


def _check_unique(rows: list[Row]) -> None:
    """An image that is listed twice could be in both training and test, or belong to two classes."""
    first: dict[str, ImageRecord] = {}
    for path, record in rows:
        if (other := first.setdefault(os.path.normpath(path), record)) is not record:
            raise UserError(f"{record.place}: {path} is already listed in {other.place}; remove one of them.")


def _rows(file: Path, split: Split | None) -> list[Row]:
    records = read_records(str(file), file.suffix)
    if not records:
        return []
    columns = {wanted: next((name for name in names if name in records[0]), None) for wanted, names in COLUMNS.items()}
    for needed in ("path", "label"):
        if columns[needed] is None:
            raise UserError(
                f"{file}: no column for the {needed}, which is called {' or '.join(map(repr, COLUMNS[needed]))}; "
                f"there are {', '.join(records[0])}."
            )
    # A CSV file has texts only: labels are ids if every one of them is a number.
    labels = [str(record.get(str(columns["label"]))) for record in records]
    numbers = all(label.removeprefix("-").isdecimal() for label in labels)
    rows = []
    for number, record in enumerate(records, start=1):
        place = f"{file}, row {number}"
        path, label, name, stated = (record.get(str(column)) for column in columns.values())
        if path in (None, "") or label in (None, ""):
            raise UserError(f"{place}: path or label is empty; fill it in or remove the row.")
        if not isinstance(path, str):
            raise UserError(f"{place}: {columns['path']!r} is not a path; images must be files beside the table.")
        if not isinstance(label, str | int) or isinstance(label, bool):
            raise UserError(f"{place}: label {label!r} is neither a name nor a whole number.")
        if columns["split"] is None:
            folder = path.partition("/")[0] if "/" in path else ""
            stated = folder if folder in SPLIT_FOLDERS else None
        if stated and str(stated) not in SPLIT_FOLDERS:
            raise UserError(f"{place}: there is no split {stated!r}; use {', '.join(SPLIT_FOLDERS)}.")
        own = SPLIT_FOLDERS[str(stated)] if stated else None
        name = None if name is None else str(name)
        record_of = ImageRecord(int(label) if numbers else str(label), place, name, split or own)
        rows.append((str(file.parent / path), record_of))
    return rows


def read_records(url: str, kind: str) -> list[dict[str, Any]]:
    """The rows of a table, as they are in its file.

    Args:
        kind: one of `KINDS`.

    Raises:
        UserError: it can't be read as such.
    """
    try:
        data = storage.read_bytes(url)
        if kind == ".parquet":
            records: list[dict[str, Any]] = storage.read_parquet(data).to_pylist()
            return records
        text = data.decode("utf-8-sig")
        if kind == ".jsonl":
            return [
                parse_json(line, f"{url}, line {number}", dict, "correct it")
                for number, line in enumerate(text.split("\n"), start=1)
                if line.strip()
            ]
        return list(csv.DictReader(text.splitlines()))
    except UserError:
        raise
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{url}: not readable as {kind[1:]} ({' '.join(str(error).split())}).") from error


def _metadata(folder: Path) -> Path | None:
    return next((file for kind in KINDS if (file := folder / f"metadata{kind}").is_file()), None)
