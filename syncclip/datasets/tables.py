"""A user's own images as a table of paths and labels: a CSV or parquet file, or an image folder with metadata.

The image folder is that of Hugging Face's `datasets`: `metadata.csv`, `.jsonl` or `.parquet` beside the images, or
one in each of the folders `train`, `validation` and `test`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from syncclip.core.settings import UserError
from syncclip.core.text import spoken
from syncclip.datasets.dataset import TEMPLATE, Dataset, Split
from syncclip.datasets.files import (
    SPLIT_FOLDERS,
    FolderSet,
    Given,
    Labelled,
    draw_splits,
    folders_in,
    hold_out,
    require_files,
    settle_classes,
)
from syncclip.datasets.folders import split_folders

KINDS = (".csv", ".jsonl", ".parquet")
COLUMNS = {
    "path": ("path", "file_name", "file", "filename", "image"),
    "label": ("label", "class", "category"),
    "name": ("classname", "class_name", "label_name"),
    "split": ("split",),
}
"""What is read, and how its column may be called; the first that is there counts. Name and split may be missing."""


@dataclass(frozen=True)
class Row:
    """One image: its file, its label as it stands in the table, and the split that it belongs to, if one is told."""

    path: str
    given: Given
    split: Split | None


def find_metadata(folder: Path) -> dict[Split | None, Path]:
    """The tables of an image folder: one for all splits (None), or one in the folder of each; {} where it has none.

    A table of another name than `metadata` counts where it is the only one, and lies in no folder of class folders.
    """
    whole = _metadata(folder)
    if whole is not None:
        return {None: whole}
    below = folders_in(folder)
    named = split_folders(below) or {}
    found: dict[Split | None, Path] = {
        split: file for split, place in named.items() if (file := _metadata(place)) is not None
    }
    if found or len(below) > 1:
        return found
    tables = [file for file in folder.iterdir() if file.suffix in KINDS and not file.name.startswith(".")]
    return {None: tables[0]} if len(tables) == 1 else {}


def load_table(
    tables: dict[Split | None, Path], name: str, classnames: Sequence[str] | None = None, split_seed: int = 0
) -> Dataset:
    """Read tables of paths and labels; paths count from the folder where their table lies.

    Labels are texts, the classes' names, whose ids follow their order; or numbers, the ids, with names in a column of
    their own or given. Without a split column, and where paths do not begin with a split's folder, a split is drawn.

    Args:
        tables: of each split, or of all (None).
        name: what to call the dataset.
        classnames: names by id, where labels are numbers.
        split_seed: decides the split where the tables have none, and a missing validation split.

    Raises:
        UserError: a table cannot be read, a column or a value is missing or wrong, images are not there, or a class
            has too few.
    """
    source = str(next(iter(tables.values())))
    rows = [row for split, file in tables.items() for row in _rows(file, split)]
    if not rows:
        raise UserError(f"{source}: names no image at all.")
    require_files([row.path for row in rows], source)
    names, labels = settle_classes([row.given for row in rows], source, classnames)
    _check_twice(rows)
    labelled = [(row.path, label) for row, label in zip(rows, labels, strict=True)]
    return Dataset(
        name=name,
        classnames=[spoken(one) for one in names],
        template=TEMPLATE,
        splits={split: FolderSet(files) for split, files in _splits(rows, labelled, names, source, split_seed).items()},
    )


def _splits(rows: list[Row], labelled: Labelled, names: list[str], source: str, seed: int) -> dict[Split, Labelled]:
    told = [row for row in rows if row.split is not None]
    if not told:
        by_class: dict[int, list[str]] = {}
        for path, label in sorted(labelled):
            by_class.setdefault(label, []).append(path)
        return draw_splits(source, names, by_class, seed)
    if len(told) < len(rows):
        place = next(row.given.place for row in rows if row.split is None)
        raise UserError(f"{place}: no split is told, though other images have one; tell it of all or of none.")
    splits: dict[Split, Labelled] = {}
    for row, one in zip(rows, labelled, strict=True):
        assert row.split is not None
        splits.setdefault(row.split, []).append(one)
    for needed in ("train", "test"):
        if needed not in splits:
            raise UserError(f"{source}: no image of split {needed!r}; add some, or tell no split to have one drawn.")
    if "val" not in splits:
        splits["train"], splits["val"] = hold_out(splits["train"], seed)
    return splits


def _check_twice(rows: list[Row]) -> None:
    """An image that stands there twice could be trained on and tested, or be of two classes."""
    first: dict[str, Row] = {}
    for row in rows:
        if (other := first.setdefault(os.path.normpath(row.path), row)) is not row:
            raise UserError(f"{row.given.place}: {row.path} stands in {other.given.place} already; remove one of them.")


def _rows(file: Path, split: Split | None) -> list[Row]:
    records = _records(file)
    columns = {
        wanted: next((name for name in names if records and name in records[0]), None)
        for wanted, names in COLUMNS.items()
    }
    for needed in ("path", "label"):
        if records and columns[needed] is None:
            raise UserError(
                f"{file}: no column for the {needed}, which is called {' or '.join(map(repr, COLUMNS[needed]))}; "
                f"there are {', '.join(records[0])}."
            )
    # A CSV file holds texts only: labels are ids where every one of them is a number.
    given = [record.get(str(columns["label"])) for record in records]
    numbers = all(str(label).removeprefix("-").isdecimal() for label in given)
    rows = []
    for number, record in enumerate(records):
        place = f"{file}, row {number + 1}"
        path, label, name, told = (record.get(str(column)) for column in columns.values())
        if path in (None, "") or label in (None, ""):
            raise UserError(f"{place}: path or label is empty; fill it in or remove the row.")
        if not isinstance(path, str):
            raise UserError(f"{place}: {columns['path']!r} holds no path; images must be files beside the table.")
        if not isinstance(label, str | int) or isinstance(label, bool):
            raise UserError(f"{place}: label {label!r} is neither a name nor a whole number.")
        beginning = path.partition("/")[0] if "/" in path else ""
        told = told if columns["split"] else beginning if beginning in SPLIT_FOLDERS else None
        if told and str(told) not in SPLIT_FOLDERS:
            raise UserError(f"{place}: there is no split {told!r}; write {', '.join(SPLIT_FOLDERS)}.")
        rows.append(
            Row(
                path=str(file.parent / path),
                given=Given(int(label) if numbers else str(label), place, None if name is None else str(name)),
                split=split or (SPLIT_FOLDERS[str(told)] if told else None),
            )
        )
    return rows


def _records(file: Path) -> list[dict[str, Any]]:
    """A table's rows as they stand there."""
    try:
        if file.suffix == ".parquet":
            records: list[dict[str, Any]] = pq.read_table(file).to_pylist()
            return records
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".jsonl":
            return [dict(json.loads(line)) for line in text.splitlines() if line.strip()]
        return list(csv.DictReader(text.splitlines()))
    except (OSError, ValueError, TypeError, csv.Error, pa.ArrowException) as error:
        raise UserError(f"{file}: not readable as {file.suffix[1:]} ({' '.join(str(error).split())}).") from error


def _metadata(folder: Path) -> Path | None:
    return next((file for kind in KINDS if (file := folder / f"metadata{kind}").is_file()), None)
