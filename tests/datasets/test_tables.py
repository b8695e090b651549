"""Users' own images as tables, and image folders with metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.inference.sources import find_images
from tests.worlds.dataset import CLASSES, make_image, paths_of
from tests.worlds.tables import Record, write_images, write_table


def load(place: Path, **settings: Any) -> Dataset:
    return load_dataset(DatasetSettings(name=str(place), **settings))


def sizes(dataset: Dataset) -> list[int]:
    return [len(dataset.split(split)) for split in ("train", "val", "test")]


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_a_table_of_paths_and_names_is_split_class_by_class(tmp_path: Path, kind: str) -> None:
    dataset = load(write_table(tmp_path / f"mine.{kind}", write_images(tmp_path)))
    assert (dataset.name, dataset.classnames) == ("mine", sorted(CLASSES))
    assert sizes(dataset) == [30, 12, 18]
    for split in ("train", "val", "test"):
        images = dataset.split(split)
        for row in range(len(images)):
            shown, number = map(int, Path(images.name(row)).stem.split("_"))  # type: ignore[attr-defined]
            assert dataset.classnames[images.labels[row]] == CLASSES[shown]
            assert images.image(row).tobytes() == make_image(shown, number).tobytes()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_labels_that_are_numbers_are_ids(tmp_path: Path, kind: str) -> None:
    rows = write_images(tmp_path)
    numbered = [{"path": row["path"], "label": 5 - CLASSES.index(row["label"].replace("_", " "))} for row in rows]
    table = write_table(tmp_path / f"mine.{kind}", numbered)
    named = [{**row, "classname": CLASSES[5 - row["label"]]} for row in numbered]
    backwards = CLASSES[::-1]
    assert load(table, classnames=backwards).classnames == backwards
    assert load(write_table(tmp_path / f"named.{kind}", named)).classnames == backwards
    with pytest.raises(UserError, match=f"{table}: labels are numbers without names"):
        load(table)


def test_a_split_column_is_followed_and_a_missing_validation_split_taken_from_training(tmp_path: Path) -> None:
    rows = [{**row, "split": "train" if i < 36 else "test"} for i, row in enumerate(write_images(tmp_path))]
    dataset = load(write_table(tmp_path / "mine.csv", rows))
    assert sizes(dataset) == [30, 6, 24]
    of_test = {dataset.split("test").name(row).rpartition("/")[2] for row in range(24)}  # type: ignore[attr-defined]
    assert of_test == {Path(row["path"]).name for row in rows[36:]}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_image_folder_with_metadata_in_each_split(tmp_path: Path, kind: str) -> None:
    for split in ("train", "validation", "test"):
        rows = write_images(tmp_path / split, "images")
        renamed = [{"file_name": row["path"], "label": row["label"]} for row in rows]
        write_table(tmp_path / split / f"metadata.{kind}", renamed)
    dataset = load(tmp_path)
    assert (dataset.name, dataset.classnames, sizes(dataset)) == (tmp_path.name, sorted(CLASSES), [60, 60, 60])
    assert paths_of(dataset.split("val"))[0].relative_to(tmp_path).parts[0] == "validation"


def test_an_image_folder_with_one_table_for_all_splits(tmp_path: Path) -> None:
    rows = [row for split in ("train", "test") for row in write_images(tmp_path, split)]
    write_table(tmp_path / "metadata.csv", [{"file_name": row["path"], "label": row["label"]} for row in rows])
    assert sizes(load(tmp_path)) == [48, 12, 60]


def test_the_only_table_of_a_folder_is_read_and_class_folders_come_before_any(tmp_path: Path) -> None:
    rows = write_images(tmp_path)
    write_table(tmp_path / "labels.csv", rows)
    assert load(tmp_path).classnames == sorted(CLASSES)
    for name in ("front", "back"):
        write_images(tmp_path, name)
    (tmp_path / "images").rename(tmp_path / "side")
    assert load(tmp_path).classnames == ["back", "front", "side"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"path": ""}, "row 4: empty path or label"),
        ({"label": ""}, "row 4: empty path or label"),
        ({"path": "images/none.png"}, "1 of 60 listed images are missing"),
        ({"split": "trian"}, "row 4: unknown split 'trian'; use train, val"),
        ({"split": ""}, "row 4: no split, unlike other images"),
    ],
)
def test_a_wrong_row_is_one_sentence(tmp_path: Path, change: Record, part: str) -> None:
    rows = write_images(tmp_path)
    if "split" in change:
        rows = [{**row, "split": "train" if i % 2 else "test"} for i, row in enumerate(rows)]
    rows[3] |= change
    with pytest.raises(UserError, match=part) as caught:
        load(write_table(tmp_path / "mine.csv", rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", [None, "train"])
def test_an_image_stands_in_a_table_once(tmp_path: Path, split: str | None) -> None:
    told = {} if split is None else {"split": split}
    rows = [{**row, **told} for row in write_images(tmp_path)]
    again = {**rows[3], "path": f"./{rows[3]['path']}", **({} if split is None else {"split": "test"})}
    table = write_table(tmp_path / "mine.csv", [*rows, again])
    with pytest.raises(UserError, match=f"{table}, row 61: .*3_0.png is already listed in {table}, row 4; remove one"):
        load(table)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"label": 0.5}, "row 2: label 0.5 is neither a name nor an integer"),
        ({"label": True}, "row 2: label True is neither"),
        ({"path": {"bytes": "?"}}, "row 2: 'path' is not a path; images must be files"),
    ],
)
def test_values_of_other_types_are_refused(tmp_path: Path, values: Record, part: str) -> None:
    rows = write_images(tmp_path)
    rows[1] |= values
    with pytest.raises(UserError, match=part):
        load(write_table(tmp_path / "mine.jsonl", rows))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("file,colour\na.png,red\n", "no path column|no label column"),
        ("label\nred\n", "no path column"),
        ("path,label\n", "no images listed"),
    ],
)
def test_a_table_without_its_columns_is_refused(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(UserError, match=part):
        load(tmp_path / "mine.csv")


@pytest.mark.parametrize("name", ["mine.parquet", "mine.jsonl", "mine.txt"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("about")
    with pytest.raises(UserError, match="not readable as|tables must end in"):
        load(tmp_path / name)


def bomb(file: Path, rows: int, column: Any, **how: Any) -> Path:
    """A parquet file that repeats a column of a few rows in `rows` rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    indices = pa.array(np.zeros(rows, np.int32))
    paths = pa.DictionaryArray.from_arrays(indices, column)
    labels = pa.DictionaryArray.from_arrays(indices, pa.array(["cat"]))
    pq.write_table(pa.table({"path": paths, "label": labels}), file, compression="zstd", **how)
    return file


@pytest.mark.fault
@pytest.mark.parametrize(
    ("rows", "text", "part"),
    [
        (10_000, "a" * 1_000_000, "its text exceeds the limit of 33.6 MB"),
        (2_000_000, "a.png", r"2,000,000 rows, .* in a file of .* kB, exceed the limit"),
        (1, "a" * 100_000_000, r"1 rows, 100.0 MB in a file of .* kB, exceed the limit"),
    ],
    ids=["dictionary", "rows", "compression"],
)
def test_a_small_parquet_file_does_not_become_gigabytes(rows: int, text: str, part: str, tmp_path: Path) -> None:
    import pyarrow as pa

    file = bomb(tmp_path / "mine.parquet", rows, pa.array([text]))
    del text
    assert file.stat().st_size < 300_000
    before = pa.total_allocated_bytes()
    with pytest.raises(UserError, match=rf"mine\.parquet: {part}"):
        load(file)
    with pytest.raises(UserError, match=part):
        [source.read() for source in find_images([str(file)])]
    assert pa.total_allocated_bytes() - before < 50_000_000


@pytest.mark.fault
def test_a_column_that_is_no_text_is_refused_unread(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for column, name in (
        (pa.array([{"bytes": b"x"}]), "struct"),
        (pa.array([b"x"], pa.binary(1)), "fixed_size_binary"),
    ):
        pq.write_table(pa.table({"image": column, "label": ["cat"]}), tmp_path / "mine.parquet")
        with pytest.raises(UserError, match=rf"column 'image' is {name}.*, neither text nor a number"):
            load(tmp_path / "mine.parquet")


@pytest.mark.fault
def test_a_wide_header_is_not_repeated_in_each_row(tmp_path: Path) -> None:
    import tracemalloc

    (tmp_path / "mine.csv").write_text("path,label," + "a," * 100_000 + "\n" + "x,cat\n" * 1_000)
    tracemalloc.start()
    with pytest.raises(UserError, match="1,000 of 1,000 listed images are missing"):
        load(tmp_path / "mine.csv")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000, "as dictionaries, these would be 5 GB"
    tracemalloc.stop()


def test_parquet_columns_of_other_types_of_text_are_read(tmp_path: Path) -> None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pd.DataFrame(write_images(tmp_path))
    expected = load(write_table(tmp_path / "plain.parquet", rows.to_dict("records")))
    rows.astype("category").to_parquet(tmp_path / "categories.parquet")
    large = pa.Table.from_pandas(rows).cast(pa.schema([(name, pa.large_string()) for name in rows]))
    pq.write_table(large, tmp_path / "large.parquet", row_group_size=7)
    for name in ("categories", "large"):
        found = load(tmp_path / f"{name}.parquet")
        assert found.classnames == expected.classnames
        assert paths_of(found.split("test")) == paths_of(expected.split("test"))
