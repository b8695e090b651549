"""Users' own WebDataset shards, of any writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from tests.worlds.dataset import CLASSES, make_image
from tests.worlds.tables import PER_CLASS
from tests.worlds.webdataset import samples, tar


def load(place: Path, **settings: Any) -> Dataset:
    return load_dataset(DatasetSettings(name=str(place), **settings))


def sizes(dataset: Dataset) -> list[int]:
    return [len(dataset.split(split)) for split in ("train", "val", "test")]


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_shards_of_any_writer_are_split_class_by_class(tmp_path: Path, kind: str) -> None:
    tar(tmp_path / "0.tar", samples(0, 6, kind))
    tar(tmp_path / "1.tar", samples(6, 4, kind))
    dataset = load(tmp_path, classnames=CLASSES)
    assert (dataset.classnames, sizes(dataset)) == (CLASSES, [30, 12, 18])
    train = dataset.split("train")
    seen = [train.image(row).tobytes() for row in train.rows_of(4)]
    assert len(set(seen)) == 5 and set(seen) <= {make_image(4, i).tobytes() for i in range(PER_CLASS)}


def test_shards_in_split_folders_with_a_list_of_names(tmp_path: Path) -> None:
    tar(tmp_path / "train" / "0.tar", samples(0, 5))
    tar(tmp_path / "test" / "0.tar", samples(5, 2), prefix="test/s")
    (tmp_path / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    dataset = load(tmp_path)
    assert (dataset.classnames, sizes(dataset)) == (CLASSES, [24, 6, 12])
    assert dataset.split("test").image(7).tobytes() == make_image(1, 6).tobytes()


def test_shards_are_read_from_any_file_system(tmp_path: Path) -> None:
    import fsspec

    file = tar(tmp_path / "0.tar", samples())
    fsspec.filesystem("memory").pipe_file("/own-shards/0.tar", file.read_bytes())
    dataset = load_dataset(DatasetSettings(name="memory://own-shards", classnames=CLASSES))
    assert sizes(dataset) == [30, 12, 18]
    assert dataset.split("test").image(0).size == (32, 32)


@pytest.mark.parametrize(
    ("sample", "part"),
    [
        ({"cls": b"1"}, "sample 's0000060' has no image"),
        ({"png": b"?"}, "sample 's0000060' has no class"),
        ({"png": b"?", "cls": b"6"}, "label 6 is out of range"),
    ],
)
def test_a_sample_without_image_or_class_is_named(tmp_path: Path, sample: dict[str, bytes], part: str) -> None:
    tar(tmp_path / "0.tar", [*samples(), sample])
    with pytest.raises(UserError, match=part):
        load(tmp_path, classnames=CLASSES)


def test_a_damaged_tar_is_named(tmp_path: Path) -> None:
    file = tar(tmp_path / "0.tar", samples())
    file.write_bytes(file.read_bytes()[:9000] + b"x" * 9000)
    with pytest.raises(UserError, match=f"{file}: not a valid tar file"):
        load(tmp_path, classnames=CLASSES)
