"""A folder of class folders as a dataset."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import Dataset, DatasetSettings, folders, load_dataset
from tests.worlds.dataset import CLASSES, folder_of_folders, make_image, paths_of


def load_folder(folder: Path, split_seed: int = 0) -> Dataset:
    return load_dataset(DatasetSettings(name=str(folder), split_seed=split_seed))


def test_plain_class_folders_are_split_class_by_class(tmp_path: Path) -> None:
    dataset = load_folder(folder_of_folders(tmp_path, per_class=10))
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        assert [len(dataset.split(split).rows_of(label)) for label in range(6)] == [count] * 6


def test_every_image_is_in_one_split(tmp_path: Path) -> None:
    dataset = load_folder(folder_of_folders(tmp_path, per_class=7))
    paths = [path for split in ("train", "val", "test") for path in paths_of(dataset.split(split))]
    assert len(paths) == len(set(paths)) == 42


def test_the_split_is_a_function_of_its_seed(tmp_path: Path) -> None:
    folder_of_folders(tmp_path, per_class=10)
    first, again, other = (paths_of(load_folder(tmp_path, split_seed=seed).split("test")) for seed in (0, 0, 1))
    assert first == again != other


def test_split_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    folder_of_folders(tmp_path, splits={"train": 3, "validation": 1, "test": 2})
    dataset = load_folder(tmp_path)
    assert [len(dataset.split(split)) for split in ("train", "val", "test")] == [18, 6, 12]
    assert {path.parts[-3] for path in paths_of(dataset.split("val"))} == {"validation"}


def test_a_missing_validation_folder_is_taken_from_training(tmp_path: Path) -> None:
    folder_of_folders(tmp_path, splits={"train": 5, "test": 2})
    dataset = load_folder(tmp_path)
    assert [len(dataset.split(split)) for split in ("train", "val", "test")] == [24, 6, 12]


def test_a_novel_class_needs_no_training_image(tmp_path: Path) -> None:
    folder_of_folders(tmp_path, splits={"train": 2, "val": 1, "test": 1})
    shutil.rmtree(tmp_path / "train" / "red_square")
    assert load_folder(tmp_path).classnames == sorted(CLASSES)


def test_a_base_class_without_training_images_is_named(tmp_path: Path) -> None:
    folder_of_folders(tmp_path, splits={"train": 2, "val": 1, "test": 1})
    shutil.rmtree(tmp_path / "train" / "blue_circle")
    with pytest.raises(UserError, match="no training image of base class 'blue circle'"):
        load_folder(tmp_path)


def test_images_are_read_as_rgb(tmp_path: Path) -> None:
    folder_of_folders(tmp_path, per_class=4)
    train = load_folder(tmp_path).split("train")
    row = int(train.rows_of(4)[0])
    variant = int(paths_of(train)[row].stem)
    assert paths_of(train)[row].parent.name == "red_circle"
    assert train.image(row).tobytes() == make_image(0, variant).tobytes()


@pytest.mark.parametrize("target", [".", "..", "loop"])
def test_a_link_that_leads_back_is_refused(tmp_path: Path, target: str) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    (folder / "loop").symlink_to(target)
    with pytest.raises(UserError, match=f"{folder / 'loop'}: link to a parent folder"):
        folders.load_folder(folder, 0, Counter())


def test_a_link_to_a_class_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    shutil.move(folder / "red_circle", tmp_path / "elsewhere")
    (folder / "red_circle").symlink_to(tmp_path / "elsewhere")
    assert load_folder(folder).classnames == sorted(CLASSES)


def test_given_names_stand_for_those_of_the_folders(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    settings = DatasetSettings(name=str(folder_of_folders(tmp_path, per_class=4)), classnames=names)
    assert load_dataset(settings).classnames == names


@pytest.mark.parametrize("name", ["_", " ", "bell\a"])
def test_a_name_that_no_text_encoder_can_read_is_refused(tmp_path: Path, name: str) -> None:
    folder = folder_of_folders(tmp_path, per_class=4)
    (folder / "red_circle").rename(folder / name)
    with pytest.raises(UserError, match="unreadable name"):
        load_folder(folder)


def test_files_that_are_skipped_are_counted_by_extension(tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    first, second = sorted(path for path in folder.iterdir() if path.is_dir())[:2]
    for name in ("a.heic", "b.HEIC", "notes.txt", "README", ".hidden.heic"):
        (first / name).write_text("no image")
    (second / "more").mkdir()
    (folder / "stray.jpg").write_bytes(b"")
    (folder / "licence.txt").write_text("free")
    expected = {".heic": 2, ".txt": 2, "no extension": 1, "folder": 1, ".jpg outside class folders": 1}
    dataset = load_folder(folder)
    assert dataset.skipped == expected and sum(map(len, dataset.splits.values())) == 4 * len(CLASSES)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_formats_beside_jpeg_and_png_are_images(kind: str, tmp_path: Path) -> None:
    for label in range(2):
        (tmp_path / str(label)).mkdir()
        for number in range(3):
            make_image(label, number).convert("L").save(tmp_path / str(label) / f"{number}.{kind.lower()}", kind)
    dataset = load_folder(tmp_path)
    assert dataset.skipped == {} and sum(map(len, dataset.splits.values())) == 6
    assert dataset.split("test").image(0).size == make_image(0, 0).size
