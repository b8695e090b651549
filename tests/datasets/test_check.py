"""`datasets ls` and `datasets check`."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import check as checks
from syncclip.datasets.catalog import DATASETS
from syncclip.datasets.check import check, listing, warnings_of
from syncclip.datasets.packed import pack
from tests.datasets.conftest import load
from tests.worlds.dataset import folder_of_folders
from tests.worlds.literature import ADVERSARIAL, Miniatures, miniature


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_counts_are_compared_with_the_catalogue(miniatures: Miniatures, name: str) -> None:
    result, expected = check(name, str(miniatures.root)), miniatures.of[name]
    sizes = {
        split: len(expected.items[split]) if split in expected.items else None for split in ("train", "val", "test")
    }
    assert result.counts == {"classes": len(expected.candidates), **sizes}
    differing = [key for key in ("classes", "train", "val", "test") if getattr(DATASETS[name], key) is not None]
    assert [problem.partition(":")[0] for problem in result.problems] == differing


def test_equal_counts_are_no_problem(miniatures: Miniatures, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = replace(DATASETS["imagenet_a"], classes=len(ADVERSARIAL), test=2 * len(ADVERSARIAL))
    monkeypatch.setitem(DATASETS, "imagenet_a", entry)
    assert check("imagenet_a", str(miniatures.root)).problems == []


def test_a_missing_folder_is_a_problem(tmp_path: Path) -> None:
    (problem,) = check("dtd", str(tmp_path)).problems
    assert "folder of dtd not found" in problem


def test_unreadable_images_are_counted(tmp_path: Path) -> None:
    expected = miniature(tmp_path, "dtd")
    for path, _ in expected.items["test"][3:5]:
        (tmp_path / path).write_bytes(b"broken")
    *_, last = check("dtd", str(tmp_path), images=True).problems
    assert last.startswith("test: 2 of 12 checked images cannot be read: ") and expected.items["test"][3][0] in last


@pytest.mark.parametrize("content", [b"broken", b"", None], ids=["replaced", "empty", "truncated"])
def test_a_sample_of_the_images_of_a_large_dataset_is_decoded(
    tmp_path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MOST_DECODED", 50)
    folder = folder_of_folders(tmp_path, per_class=40)
    result = check(str(folder), None)
    assert (result.problems, result.decoded, result.state) == ([], 96, "OK; decoded 96 of 240 images")
    assert check(str(folder), None, images=True).state == "OK"
    for file in folder.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:-40] if content is None else content)
    result = check(str(folder), None)
    assert result.state == "3 problems"
    assert [problem.partition(" cannot")[0] for problem in result.problems] == [
        f"{split}: 32 of 32 checked images" for split in ("train", "val", "test")
    ]


def test_all_images_of_a_small_dataset_are_decoded(tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path, splits={"train": 40, "val": 40, "test": 40})
    assert check(str(folder), None).state == "OK"
    sorted((folder / "test" / "red_circle").iterdir())[17].write_bytes(b"broken")
    (problem,) = check(str(folder), None).problems
    assert problem.startswith("test: 1 of 240 checked images cannot be read: ")


def test_test_images_are_decoded_before_those_of_other_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of_folders(tmp_path, splits={"train": 40, "val": 40, "test": 40})
    monkeypatch.setattr(checks, "MOST_DECODED", 300)
    assert check(str(folder), None).decoded == 240 + 32 + 32


def test_the_full_training_split_of_a_packed_dataset_is_counted(miniatures: Miniatures, tmp_path: Path) -> None:
    assert pack(load("dtd", miniatures.root), str(tmp_path / "dtd"), shots=[1], seeds=[1])["train"] == 3
    assert check("dtd", str(tmp_path)).counts == check("dtd", str(miniatures.root)).counts


@pytest.mark.parametrize("root", [None, "nowhere"])
def test_the_root_must_be_given_and_exist(root: str | None) -> None:
    with pytest.raises(UserError, match=r"--root DIR|nowhere: dataset folder not found; see CoOp's"):
        check("dtd", root)
    if root is not None:
        with pytest.raises(UserError, match="nowhere: dataset folder not found"):
            listing(root)


def test_the_listing_contains_available_folders_and_packed_datasets(miniatures: Miniatures, tmp_path: Path) -> None:
    miniature(tmp_path, "eurosat")
    pack(load("imagenet_a", miniatures.root), str(tmp_path / "imagenet_a"))
    headings, rows = listing(str(tmp_path))
    available = [row[0] for row in rows if row[headings.index("available")] == "yes"]
    assert sorted(map(str, available)) == ["eurosat", "imagenet_a"] and len(rows) == 15
    assert "available" not in listing(None)[0]


def test_a_small_split_is_a_warning_with_the_uncertainty_of_an_accuracy(tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path, splits={"train": 20, "val": 17, "test": 4})
    (warning,) = check(str(folder), None).warnings
    # an accuracy of 50 % on 24 images has a standard error of 50 / sqrt(24) = 10.2 points
    assert warning == "test: only 24 images; the 95 % confidence interval of an accuracy of 50 % is ±20 points"


def test_classes_far_from_the_median_size_are_a_warning(tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path, splits={"train": 8, "val": 17, "test": 20})
    for file in sorted((folder / "test" / "red_circle").iterdir())[5:]:
        file.unlink()
    (warning,) = check(str(folder), None).warnings
    assert warning == ("test: 1 class has less than 1/3 or more than 3 times the median of 20 images: 'red circle' (5)")


@pytest.mark.parametrize("kind", ["folder", "packed"])
def test_copies_in_several_splits_are_a_warning(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of_folders(tmp_path / "mine", splits={"train": 8, "val": 17, "test": 20})
    dataset = load(folder)
    assert warnings_of(dataset) == []
    copied = sorted((folder / "train" / "red_circle").iterdir())[3]
    shutil.copy(copied, folder / "test" / "blue_circle" / "other.png")
    dataset = load(folder)
    if kind == "packed":
        pack(dataset, str(tmp_path / "packed"), shots=[8], seeds=[1])
        dataset = load(tmp_path / "packed")
    (warning,) = warnings_of(dataset)
    assert warning.startswith("1 image is in more than one split: ") and warning.endswith("; remove the copies")
    if kind == "folder":
        assert f"red_circle/{copied.name} (train) and blue_circle/other.png (test)" in warning
    monkeypatch.setattr(checks, "MOST_COMPARED", 0)
    monkeypatch.setattr(checks, "SAMPLE", 1)
    assert warnings_of(dataset) == [] and warnings_of(dataset, images=True) == [warning]


def test_benchmark_datasets_have_no_warnings(miniatures: Miniatures) -> None:
    assert check("dtd", str(miniatures.root)).warnings == []
