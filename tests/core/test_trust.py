"""Only trusted names of custom code are imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.core.trust import MARKS, mark_around, module_of, names_in, require_trust, trust, trusted
from syncclip.protocols.protocols import PROTOCOLS


def test_names_of_custom_code_are_recognised() -> None:
    values = {
        "method": "a.b:C",
        "url": "s3://bucket/x",
        "text": "a photo: of {}",
        "configurations": [{"method": "m:N"}, 3, None],
    }
    assert names_in(values) == ["a.b:C", "m:N"]


def test_locations_of_compiled_code_require_trust() -> None:
    nested = {"synthesis": {"generator": {"compile_cache": "s3://b/c", "compile": True}}}
    overrides = {"synthesis.generator.compile_cache": "/shared", "study.compile_caches": "no"}
    assert names_in(nested) == ["compile_cache:s3://b/c"]
    assert names_in(overrides) == ["compile_cache:/shared"]
    assert names_in({"compile_cache": None}) == []


def test_a_name_is_rejected_unless_it_is_trusted() -> None:
    trust("my.module:Class")
    require_trust("my.module:Class")
    require_trust("coop")
    with pytest.raises(UserError, match=r"^key: 'my\.module:Other' is custom code.* --trust my\.module:Other"):
        require_trust("my.module:Other", "key: ")
    assert trusted() == ("my.module:Class",)


def test_the_results_of_every_protocol_are_marked() -> None:
    assert {f"{name}.parquet" for name in PROTOCOLS} <= set(MARKS)


@pytest.mark.parametrize("mark", ["run.json", "plan.json", "study.json", "tuned.json", "00000_stats.json"])
def test_marks_apply_to_subfolders(tmp_path: Path, mark: str) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert mark_around(inner) is None
    (tmp_path / "a" / mark).touch()
    assert mark_around(inner) == tmp_path / "a" / mark


def test_modules_are_imported_from_the_working_folder_unless_it_has_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "only_in_this_folder.py").touch()
    (tmp_path / "run.json").touch()
    trust("only_in_this_folder:Class")
    with pytest.raises(ImportError, match=r"is a results folder"):
        module_of("only_in_this_folder:Class")
    trust("only_in_this_folder:Class", anywhere=True)
    assert module_of("only_in_this_folder:Class").__file__ == str(tmp_path / "only_in_this_folder.py")
