"""A folder of the wrong kind is named, with a command that reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.storage.kinds import KINDS
from syncclip.verify import ROOTS


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("run.json", "is a run, not a recipe; use `syncclip evaluate {}`, or another folder"),
        ("study.json", "is a study, not a recipe; use `syncclip report {}`, or another folder"),
        ("plan.json", "is a synthetic dataset, not a recipe; use `syncclip report {}`, or another folder"),
        ("export.json", "is an export, not a recipe; use `syncclip verify {}`, or another folder"),
    ],
)
def test_the_error_names_the_kind_and_a_command(tmp_path: Path, marker: str, expected: str) -> None:
    (tmp_path / marker).touch()
    assert str(storage.wrong_folder(str(tmp_path), "a recipe", "x; y")) == f"{tmp_path} {expected.format(tmp_path)}"


def test_a_folder_with_files_of_another_kind_is_rejected(tmp_path: Path) -> None:
    storage.require_kind(str(tmp_path / "new"), "a synthetic dataset")
    (tmp_path / "run.json").touch()
    with pytest.raises(UserError, match=r"is a run, not a synthetic dataset; use another folder with --out$"):
        storage.require_kind(str(tmp_path), "a synthetic dataset")
    (tmp_path / "plan.json").touch()
    storage.require_kind(str(tmp_path), "a synthetic dataset")  # a run in the folder of its synthetic dataset


def test_other_folders_and_files_have_no_kind(tmp_path: Path) -> None:
    (tmp_path / "file.csv").touch()
    for path in (tmp_path, tmp_path / "file.csv", tmp_path / "missing"):
        assert storage.kind_of(str(path)) is None
    assert str(storage.wrong_folder(str(tmp_path), "a run", "no run; fix")) == f"{tmp_path}: no run; fix"
    error = str(storage.wrong_folder(f"{tmp_path}/missing", "a run", "no run; fix"))
    assert error == f"{tmp_path}/missing: no run, because the folder does not exist; fix"


def test_the_error_names_a_suitable_subfolder(tmp_path: Path) -> None:
    for folder, marker in (("a", "dataset.json"), ("b", "run.json"), ("c/study", "study.json")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / marker).touch()
    error = str(storage.wrong_folder(str(tmp_path), "a finished study", "no study; fix"))
    assert error == f"{tmp_path}: no study; fix; {tmp_path}/c/study is a study"
    assert str(storage.wrong_folder(f"{tmp_path}/", "a run", "x; y")).endswith(f"y; {tmp_path}/b is a run")


def test_every_folder_that_verify_recognises_has_a_kind() -> None:
    """A packed dataset contains both `packing.json` and `dataset.json`."""
    assert {*ROOTS} - {*KINDS} == {"packing.json"}
