"""Custom images listed in a table of paths and labels (CSV, JSON lines or parquet).

The table is a single file, or the `metadata` file of an image folder in the format of Hugging Face's `datasets`.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.settings import UserError
from syncclip.core.text import cut, size
from syncclip.datasets.dataset import Split
from syncclip.datasets.folders import folders_in, require_files, split_folders
from syncclip.datasets.labels import SPLIT_FOLDERS, ImageRecord, Labelled, names_and_splits

KINDS = (".csv", ".jsonl", ".parquet")
COLUMNS = {
    "path": ("path", "file_name", "file", "filename", "image"),
    "label": ("label", "class", "category"),
    "name": ("classname", "class_name", "label_name"),
    "split": ("split",),
}
"""Accepted names of each column, in order of precedence; the `name` and `split` columns are optional."""

BATCH_ROWS = 4096
MOST_FREE, MOST_FREE_ROWS = 1 << 25, 100_000
"""Decoded size in bytes and number of rows up to which a parquet file is always accepted."""
MOST_EXPANSION = 64
"""Maximum ratio of decoded bytes to file size for larger parquet files, which may have at most one row per byte."""

Row = tuple[str, ImageRecord]
"""Pair (path, record) of an image."""


def find_metadata(folder: Path) -> dict[Split | None, Path]:
    """Return the tables of an image folder: one for all splits (key None), one per split, or {} if there are none.

    A table not named `metadata` is used only if the folder contains no other table and no class folders.
    """
    if (table := _metadata(folder)) is not None:
        return {None: table}
    children = folders_in(folder)
    by_split = {split: table for split, child in split_folders(children).items() if (table := _metadata(child))}
    if by_split or len(children) > 1:
        return by_split
    tables = [file for file in folder.iterdir() if file.suffix in KINDS and not file.name.startswith(".")]
    return {None: tables[0]} if len(tables) == 1 else {}


def load_table(
    tables: dict[Split | None, Path], classnames: Sequence[str] | None, split_seed: int
) -> tuple[list[str], dict[Split, Labelled[str]]]:
    """Read class names and image paths from tables; each path is relative to its table.

    Labels are class names or ids. Splits are read from a column or from the first folder of each path; otherwise,
    images are split at random.

    Args:
        tables: table of each split, or of all splits (key None).
        classnames: class names by id, if labels are ids.
        split_seed: seed for a random split, or for sampling a missing validation split.
    """
    source = str(next(iter(tables.values())))
    rows = [row for split, file in tables.items() for row in _rows(file, split)]
    if not rows:
        raise UserError(f"{source}: no images listed.")
    paths, records = [path for path, _ in rows], [record for _, record in rows]
    require_files(paths, source)
    dataset = names_and_splits(paths, records, source, classnames, split_seed)
    _check_unique(rows)
    return dataset


def _check_unique(rows: list[Row]) -> None:
    """Raise a `UserError` if a path is listed twice, because the image could belong to two splits or classes."""
    first: dict[str, ImageRecord] = {}
    for path, record in rows:
        if (other := first.setdefault(os.path.normpath(path), record)) is not record:
            raise UserError(f"{record.location}: {path} is already listed in {other.location}; remove one row.")


def _rows(file: Path, split: Split | None) -> list[Row]:
    header, columns, values = read_columns(str(file), file.suffix, *COLUMNS.values())
    records = list(values)
    if not records:
        return []
    for needed, column in zip(("path", "label"), columns, strict=False):
        if column is None:
            accepted = " or ".join(map(repr, COLUMNS[needed]))
            raise UserError(f"{file}: no {needed} column; add {accepted} (existing columns: {', '.join(header)}).")
    # In CSV files, ids are text as well.
    are_ids = all(str(label).removeprefix("-").isdecimal() for _, label, *_ in records)
    rows = []
    for number, (path, label, name, split_text) in enumerate(records, start=1):
        location = f"{file}, row {number}"
        if path in (None, "") or label in (None, ""):
            raise UserError(f"{location}: empty path or label; complete or remove the row.")
        if not isinstance(path, str):
            raise UserError(
                f"{location}: column {columns[0]!r} contains no path; store images as files and list their paths."
            )
        if not isinstance(label, str | int) or isinstance(label, bool):
            raise UserError(f"{location}: label {label!r} is neither a class name nor an integer.")
        if columns[3] is None:
            folder = path.partition("/")[0] if "/" in path else ""
            split_text = folder if folder in SPLIT_FOLDERS else None
        if split_text and str(split_text) not in SPLIT_FOLDERS:
            raise UserError(f"{location}: unknown split {split_text!r}; use {', '.join(SPLIT_FOLDERS)}.")
        split_of_row = split or (SPLIT_FOLDERS[str(split_text)] if split_text else None)
        name = None if name is None else str(name)
        record = ImageRecord(int(label) if are_ids else str(label), location, name, split_of_row)
        rows.append((str(file.parent / path), record))
    return rows


def read_columns(
    url: str, kind: str, *alternatives: Sequence[str]
) -> tuple[list[str], list[str | None], Iterator[list[Any]]]:
    """Read selected columns of a table.

    Args:
        kind: one of `KINDS`.
        alternatives: accepted names of each column, in order of precedence.

    Returns:
        Names of all columns, names of the selected columns (None if missing), and an iterator over the selected values.

    Raises:
        UserError: the table is unreadable or exceeds the size limits. The iterator may also raise this error.
    """
    with _readable_as(url, kind):
        data = storage.read_bytes(url)
        if kind == ".parquet":
            return _parquet_columns(data, url, alternatives)
        text = data.decode("utf-8-sig")
        if kind == ".jsonl":
            objects = (
                parse_json(line, f"{url}, line {number}", dict, "correct it")
                for number, line in enumerate(text.split("\n"), start=1)
                if line.strip()
            )
            first: dict[str, Any] = next(objects, {})
            header, names = list(first), _first_present(alternatives, first)
            rows: Iterable[list[Any]] = ([item.get(str(name)) for name in names] for item in chain([first], objects))
            return header, names, _converted(rows if first else (), url, kind)
        lines = csv.reader(text.splitlines())
        header = next(lines, [])
        names = _first_present(alternatives, header)
        positions = [header.index(name) if name is not None else sys.maxsize for name in names]
        cells = ([line[i] if i < len(line) else None for i in positions] for line in lines if line)
        return header, names, _converted(cells, url, kind)


def _first_present(alternatives: Sequence[Sequence[str]], header: Collection[str]) -> list[str | None]:
    return [next((name for name in names if name in header), None) for names in alternatives]


def _parquet_columns(
    data: bytes, url: str, alternatives: Sequence[Sequence[str]]
) -> tuple[list[str], list[str | None], Iterator[list[Any]]]:
    """Read columns of a parquet file; size limits reject decompression bombs."""
    import pyarrow as pa  # slow to import
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
    schema, metadata = file.schema_arrow, file.metadata
    names = _first_present(alternatives, schema.names)
    wanted = [name for name in names if name is not None]
    for name in wanted:
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_primitive(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(
                f"{url}: column {name!r} has type {cut(str(kind))}, which is neither text nor numeric; convert it to "
                "text."
            )
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    decoded = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in wanted)
    most = max(MOST_FREE, MOST_EXPANSION * len(data))
    if metadata.num_rows > max(MOST_FREE_ROWS, len(data)) or decoded > most:
        raise UserError(
            f"{url}: {metadata.num_rows:,} rows ({size(decoded)} uncompressed) exceed the limit for a file of "
            f"{size(len(data))}; split the table, or write it uncompressed."
        )

    def rows() -> Iterator[list[Any]]:
        left = most
        texts = [name for name in wanted if not pa.types.is_primitive(schema.field(name).type)]
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, read_dictionary=texts)
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted, use_threads=False):
            batch.validate(full=True)  # also checks UTF-8
            columns: dict[str | None, list[Any]] = {None: [None] * batch.num_rows}
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if isinstance(column, pa.DictionaryArray):
                    if not pa.types.is_primitive(column.dictionary.type):
                        left -= pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
                    if left < 0:
                        raise UserError(f"{url}: text in the table exceeds the limit of {size(most)}; split the table.")
                    column = column.dictionary_decode()
                columns[name] = column.to_pylist()
            yield from map(list, zip(*(columns[name] for name in names), strict=True))

    return schema.names, names, _converted(rows(), url, ".parquet")


@contextmanager
def _readable_as(url: str, kind: str) -> Iterator[None]:
    """Convert parser errors to a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, csv.Error) as error:
        raise UserError(f"{url}: the file is not readable as {kind[1:]} ({' '.join(str(error).split())}).") from error


def _converted(rows: Iterable[list[Any]], url: str, kind: str) -> Iterator[list[Any]]:
    with _readable_as(url, kind):
        yield from rows


def _metadata(folder: Path) -> Path | None:
    return next((file for kind in KINDS if (file := folder / f"metadata{kind}").is_file()), None)
