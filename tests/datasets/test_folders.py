"""Datasets of class folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import folders
from syncclip.shards.images import SkippedFiles
from tests.datasets.conftest import load, sizes
from tests.worlds.dataset import CLASSES, folder_of_folders, make_image, paths_of


def test_class_folders_are_split_per_class(tmp_path: Path) -> None:
    dataset = load(folder_of_folders(tmp_path, per_class=10))
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        assert [len(dataset.split(split).rows_of(label)) for label in range(6)] == [count] * 6
    paths = [path for split in ("train", "val", "test") for path in paths_of(dataset.split(split))]
    assert len(paths) == len(set(paths)) == 60


def test_the_split_depends_on_its_seed(tmp_path: Path) -> None:
    folder_of_folders(tmp_path, per_class=10)
    first, second, other = (paths_of(load(tmp_path, split_seed=seed).split("test")) for seed in (0, 0, 1))
    assert first == second != other


def test_split_folders_are_kept(tmp_path: Path) -> None:
    dataset = load(folder_of_folders(tmp_path, splits={"train": 3, "validation": 1, "test": 2}))
    assert sizes(dataset) == [18, 6, 12]
    assert {path.parts[-3] for path in paths_of(dataset.split("val"))} == {"validation"}


def test_a_missing_validation_split_is_sampled_from_training(tmp_path: Path) -> None:
    assert sizes(load(folder_of_folders(tmp_path, splits={"train": 5, "test": 2}))) == [24, 6, 12]


def test_base_classes_need_training_images_and_novel_classes_do_not(tmp_path: Path) -> None:
    folder_of_folders(tmp_path, splits={"train": 2, "val": 1, "test": 1})
    shutil.rmtree(tmp_path / "train" / "red_square")
    assert load(tmp_path).classnames == sorted(CLASSES)
    shutil.rmtree(tmp_path / "train" / "blue_circle")
    with pytest.raises(UserError, match="no training images for base class 'blue circle'"):
        load(tmp_path)


def test_images_are_read_as_rgb(tmp_path: Path) -> None:
    train = load(folder_of_folders(tmp_path, per_class=4)).split("train")
    row = int(train.rows_of(4)[0])
    path = paths_of(train)[row]
    assert path.parent.name == "red_circle"
    assert train.image(row).tobytes() == make_image(0, int(path.stem)).tobytes()


@pytest.mark.parametrize("target", [".", "..", "loop"])
def test_a_link_to_a_parent_folder_is_an_error(tmp_path: Path, target: str) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    (folder / "loop").symlink_to(target)
    with pytest.raises(UserError, match=f"{folder / 'loop'}: this link points to a parent folder"):
        folders.load_folder(folder, 0, SkippedFiles())


def test_a_link_to_a_class_folder_is_followed(tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    shutil.move(folder / "red_circle", tmp_path / "elsewhere")
    (folder / "red_circle").symlink_to(tmp_path / "elsewhere")
    assert load(folder).classnames == sorted(CLASSES)


def test_class_names_in_the_settings_take_precedence(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    assert load(folder_of_folders(tmp_path, per_class=4), classnames=names).classnames == names


@pytest.mark.parametrize("name", ["_", " ", "bell\a"])
def test_unreadable_class_names_are_errors(tmp_path: Path, name: str) -> None:
    folder = folder_of_folders(tmp_path, per_class=4)
    (folder / "red_circle").rename(folder / name)
    with pytest.raises(UserError, match="unreadable name"):
        load(folder)


def test_skipped_files_are_counted_and_named_by_reason(tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    first, second = sorted(path for path in folder.iterdir() if path.is_dir())[:2]
    for name in ("a.heic", "b.HEIC", "notes.txt", "README", ".hidden.heic"):
        (first / name).write_text("no image")
    (second / "more").mkdir()
    (folder / "stray.jpg").write_bytes(b"")
    (folder / "licence.txt").write_text("free")
    dataset = load(folder)
    expected = {".heic": 2, ".txt": 2, "no extension": 1, folders.NESTED: 1, folders.OUTSIDE: 1}
    assert dataset.skipped.counts == expected and sum(sizes(dataset)) == 4 * len(CLASSES)
    assert dataset.skipped.names[".heic"] == [f"{first.name}/a.heic", f"{first.name}/b.HEIC"]
    assert dataset.skipped.names[folders.NESTED] == [f"{second.name}/more"]


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_image_formats_are_read(kind: str, tmp_path: Path) -> None:
    for label in range(2):
        (tmp_path / str(label)).mkdir()
        for number in range(3):
            make_image(label, number).convert("L").save(tmp_path / str(label) / f"{number}.{kind.lower()}", kind)
    dataset = load(tmp_path)
    assert not dataset.skipped and sum(sizes(dataset)) == 6
    assert dataset.split("test").image(0).size == make_image(0, 0).size


def test_the_manifest_of_an_export_is_not_reported_as_skipped(tmp_path: Path) -> None:
    folder_of_folders(tmp_path, per_class=3)
    (tmp_path / "export.json").write_text("{}")
    (tmp_path / "notes.txt").touch()
    skipped = SkippedFiles()
    folders.load_folder(tmp_path, 0, skipped)
    assert "notes.txt" in str(skipped) and "export.json" not in str(skipped)
