"""Tables of paths and labels, and image folders with metadata."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syncclip.core.settings import UserError
from syncclip.inference.sources import find_images
from tests.datasets.conftest import load, sizes
from tests.worlds.dataset import CLASSES, make_image, paths_of
from tests.worlds.tables import Record, write_images, write_table

KINDS = ["csv", "parquet", "jsonl"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_paths_and_names_is_split_per_class(tmp_path: Path, kind: str) -> None:
    dataset = load(write_table(tmp_path / f"mine.{kind}", write_images(tmp_path)))
    assert (dataset.name, dataset.classnames) == ("mine", sorted(CLASSES))
    assert sizes(dataset) == [30, 12, 18]
    for images in dataset.splits.values():
        for row in range(len(images)):
            drawn, number = map(int, Path(images.name(row)).stem.split("_"))
            assert dataset.classnames[images.labels[row]] == CLASSES[drawn]
            assert images.image(row).tobytes() == make_image(drawn, number).tobytes()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_numeric_labels_are_ids(tmp_path: Path, kind: str) -> None:
    rows = write_images(tmp_path)
    numbered = [{"path": row["path"], "label": 5 - CLASSES.index(row["label"].replace("_", " "))} for row in rows]
    table = write_table(tmp_path / f"mine.{kind}", numbered)
    named = [{**row, "classname": CLASSES[5 - row["label"]]} for row in numbered]
    reversed_names = CLASSES[::-1]
    assert load(table, classnames=reversed_names).classnames == reversed_names
    assert load(write_table(tmp_path / f"named.{kind}", named)).classnames == reversed_names
    with pytest.raises(UserError, match=f"{table}: labels are numbers without class names"):
        load(table)


def test_a_split_column_is_used_and_a_missing_validation_split_sampled(tmp_path: Path) -> None:
    rows = [{**row, "split": "train" if i < 36 else "test"} for i, row in enumerate(write_images(tmp_path))]
    dataset = load(write_table(tmp_path / "mine.csv", rows))
    assert sizes(dataset) == [30, 6, 24]
    assert {path.name for path in paths_of(dataset.split("test"))} == {Path(row["path"]).name for row in rows[36:]}


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_folder_with_metadata_per_split(tmp_path: Path, kind: str) -> None:
    for split in ("train", "validation", "test"):
        rows = [{"file_name": row["path"], "label": row["label"]} for row in write_images(tmp_path / split)]
        write_table(tmp_path / split / f"metadata.{kind}", rows)
    dataset = load(tmp_path)
    assert (dataset.name, dataset.classnames, sizes(dataset)) == (tmp_path.name, sorted(CLASSES), [60, 60, 60])
    assert paths_of(dataset.split("val"))[0].relative_to(tmp_path).parts[0] == "validation"


def test_an_image_folder_with_one_metadata_file(tmp_path: Path) -> None:
    rows = [row for split in ("train", "test") for row in write_images(tmp_path, split)]
    write_table(tmp_path / "metadata.csv", [{"file_name": row["path"], "label": row["label"]} for row in rows])
    assert sizes(load(tmp_path)) == [48, 12, 60]


def test_class_folders_take_precedence_over_the_only_table(tmp_path: Path) -> None:
    write_table(tmp_path / "labels.csv", write_images(tmp_path))
    assert load(tmp_path).classnames == sorted(CLASSES)
    for name in ("front", "back"):
        write_images(tmp_path, name)
    assert load(tmp_path).classnames == ["back", "front", "images"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"split": "trian"}, "row 4: unknown split 'trian'; use train, val"),
        ({"split": ""}, "row 4: no split, but other images have one"),
        ({"label": 0.5}, "row 4: label 0.5 is neither a class name nor an integer"),
        ({"label": True}, "row 4: label True is neither"),
        ({"path": {"bytes": "?"}}, "row 4: column 'path' contains no path; store images as files"),
    ],
)
def test_invalid_rows_are_errors(tmp_path: Path, change: Record, reason: str) -> None:
    rows = [{**row, "split": "train" if i % 2 else "test"} for i, row in enumerate(write_images(tmp_path))]
    rows[3] |= change
    with pytest.raises(UserError, match=reason):
        load(write_table(tmp_path / "mine.jsonl", rows))


@pytest.mark.parametrize("splits", [{}, {"split": "train"}])
def test_a_repeated_path_is_an_error(tmp_path: Path, splits: dict[str, str]) -> None:
    rows = [{**row, **splits} for row in write_images(tmp_path)]
    repeated = {**rows[3], "path": f"./{rows[3]['path']}", **dict.fromkeys(splits, "test")}
    table = write_table(tmp_path / "mine.csv", [*rows, repeated])
    with pytest.raises(UserError, match=f"{table}, row 61: .*3_0.png is already listed in {table}, row 4; remove one"):
        load(table)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("mine.csv", "file,colour\na.png,red\n", "no label column"),
        ("mine.csv", "label\nred\n", "no path column"),
        ("mine.csv", "path,label\n", "no images listed"),
        ("mine.parquet", "about", "not readable as"),
        ("mine.jsonl", "about", "not readable as"),
        ("mine.txt", "about", "not a table"),
    ],
)
def test_files_without_a_table_or_its_columns_are_errors(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=reason):
        load(tmp_path / name)


def write_repeated(file: Path, rows: int, path: str) -> Path:
    """Write a parquet table whose rows all have the same path and label, stored once."""
    indices = pa.array(np.zeros(rows, np.int32))
    columns = {
        name: pa.DictionaryArray.from_arrays(indices, pa.array([value]))
        for name, value in {"path": path, "label": "cat"}.items()
    }
    pq.write_table(pa.table(columns), file, compression="zstd")
    return file


@pytest.mark.fault
@pytest.mark.parametrize(
    ("rows", "text", "reason"),
    [
        (10_000, "a" * 1_000_000, "text in the table exceeds the limit of 33.6 MB"),
        (2_000_000, "a.png", r"2,000,000 rows \(.* uncompressed\) exceed the limit for a file of .* kB"),
        (1, "a" * 100_000_000, r"1 rows \(100.0 MB uncompressed\) exceed the limit for a file of .* kB"),
    ],
    ids=["dictionary", "rows", "compression"],
)
def test_a_parquet_file_that_expands_to_gigabytes_is_rejected(
    rows: int, text: str, reason: str, tmp_path: Path
) -> None:
    file = write_repeated(tmp_path / "mine.parquet", rows, text)
    del text
    assert file.stat().st_size < 300_000
    before = pa.total_allocated_bytes()
    with pytest.raises(UserError, match=rf"mine\.parquet: {reason}"):
        load(file)
    with pytest.raises(UserError, match=reason):
        [source.read() for source in find_images([str(file)])]
    assert pa.total_allocated_bytes() - before < 50_000_000


@pytest.mark.fault
@pytest.mark.parametrize(
    ("column", "kind"),
    [(pa.array([{"bytes": b"x"}]), "struct"), (pa.array([b"x"], pa.binary(1)), "fixed_size_binary")],
)
def test_a_column_without_text_is_rejected_unread(tmp_path: Path, column: Any, kind: str) -> None:
    pq.write_table(pa.table({"image": column, "label": ["cat"]}), tmp_path / "mine.parquet")
    with pytest.raises(UserError, match=rf"column 'image' has type {kind}.*, which is neither text nor numeric"):
        load(tmp_path / "mine.parquet")


@pytest.mark.fault
def test_a_wide_header_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("path,label," + "a," * 100_000 + "\n" + "x,cat\n" * 1_000)
    tracemalloc.start()
    with pytest.raises(UserError, match="1,000 of 1,000 listed images are missing"):
        load(tmp_path / "mine.csv")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000, "a dictionary per row would take 5 GB"
    tracemalloc.stop()


def test_parquet_columns_of_categories_and_large_strings_are_read(tmp_path: Path) -> None:
    rows = pd.DataFrame(write_images(tmp_path))
    expected = load(write_table(tmp_path / "plain.parquet", rows.to_dict("records")))
    rows.astype("category").to_parquet(tmp_path / "categories.parquet")
    large = pa.Table.from_pandas(rows).cast(pa.schema([(name, pa.large_string()) for name in rows]))
    pq.write_table(large, tmp_path / "large.parquet", row_group_size=7)
    for name in ("categories", "large"):
        dataset = load(tmp_path / f"{name}.parquet")
        assert dataset.classnames == expected.classnames
        assert paths_of(dataset.split("test")) == paths_of(expected.split("test"))
