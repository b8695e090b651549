"""WebDataset shards of other tools."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from syncclip.core.settings import UserError
from tests.datasets.conftest import load, sizes
from tests.worlds.dataset import CLASSES, make_image
from tests.worlds.tables import PER_CLASS
from tests.worlds.webdataset import samples, tar


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_shards_are_split_per_class(tmp_path: Path, kind: str) -> None:
    tar(tmp_path / "0.tar", samples(0, 6, kind))
    tar(tmp_path / "1.tar", samples(6, 4, kind))
    dataset = load(tmp_path, classnames=CLASSES)
    assert (dataset.classnames, sizes(dataset)) == (CLASSES, [30, 12, 18])
    train = dataset.split("train")
    images = {train.image(row).tobytes() for row in train.rows_of(4)}
    assert len(images) == 5 and images <= {make_image(4, i).tobytes() for i in range(PER_CLASS)}


def test_split_folders_and_a_list_of_class_names(tmp_path: Path) -> None:
    tar(tmp_path / "train" / "0.tar", samples(0, 5))
    tar(tmp_path / "test" / "0.tar", samples(5, 2), prefix="test/s")
    (tmp_path / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    dataset = load(tmp_path)
    assert (dataset.classnames, sizes(dataset)) == (CLASSES, [24, 6, 12])
    assert dataset.split("test").image(7).tobytes() == make_image(1, 6).tobytes()


def test_shards_are_read_through_fsspec(tmp_path: Path) -> None:
    file = tar(tmp_path / "0.tar", samples())
    fsspec.filesystem("memory").pipe_file("/own-shards/0.tar", file.read_bytes())
    dataset = load("memory://own-shards", classnames=CLASSES)
    assert sizes(dataset) == [30, 12, 18]
    assert dataset.split("test").image(0).size == (32, 32)


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        ({"cls": b"1"}, "sample 's0000060' has no image"),
        ({"png": b"?"}, "sample 's0000060' has no class"),
        ({"png": b"?", "cls": b"6"}, "label 6 is out of range"),
    ],
)
def test_an_incomplete_sample_is_an_error(tmp_path: Path, sample: dict[str, bytes], reason: str) -> None:
    tar(tmp_path / "0.tar", [*samples(), sample])
    with pytest.raises(UserError, match=reason):
        load(tmp_path, classnames=CLASSES)


def test_a_damaged_tar_is_an_error(tmp_path: Path) -> None:
    file = tar(tmp_path / "0.tar", samples())
    file.write_bytes(file.read_bytes()[:9000] + b"x" * 9000)
    with pytest.raises(UserError, match=f"{file}: not a valid tar file"):
        load(tmp_path, classnames=CLASSES)
