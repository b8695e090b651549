from __future__ import annotations

import sys
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.core.trust import MARKS, mark_around, module_of, names_in, require_trust, trust, trusted
from syncclip.protocols.protocols import PROTOCOLS


def test_only_what_looks_like_a_name_of_code_is_one() -> None:
    values = {
        "method": "a.b:C",
        "url": "s3://bucket/x",
        "text": "a photo: of {}",
        "configurations": [{"method": "m:N"}, 3, None],
    }
    assert names_in(values) == ["a.b:C", "m:N"]


def test_a_place_of_compiled_code_is_a_name_of_code_wherever_a_recipe_gives_it() -> None:
    nested = {"synthesis": {"generator": {"compile_cache": "s3://b/c", "compile": True}}}
    overrides = {"synthesis.generator.compile_cache": "/shared", "study.compile_caches": "no"}
    assert names_in(nested) == ["compile_cache:s3://b/c"]
    assert names_in(overrides) == ["compile_cache:/shared"]
    assert names_in({"compile_cache": None}) == []


def test_a_name_is_refused_until_that_very_name_is_trusted() -> None:
    trust("one.module:Class")
    require_trust("one.module:Class")
    require_trust("coop")
    with pytest.raises(
        UserError, match=r"^there: 'one\.module:Other' is custom code.* --trust one\.module:Other \.\.\.$"
    ):
        require_trust("one.module:Other", "there: ")
    assert trusted() == ("one.module:Class",)


def test_the_folder_of_every_reproduction_has_a_mark() -> None:
    assert {f"{name}.parquet" for name in PROTOCOLS} <= set(MARKS)


@pytest.mark.parametrize("mark", ["run.json", "plan.json", "study.json", "tuned.json", "00000_stats.json"])
def test_results_mark_the_folders_below_them_too(tmp_path: Path, mark: str) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert mark_around(inner) is None
    (tmp_path / "a" / mark).touch()
    assert mark_around(inner) == tmp_path / "a" / mark


def test_modules_are_looked_for_in_the_working_folder_but_not_among_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lies_here_alone.py").touch()
    (tmp_path / "run.json").touch()
    trust("lies_here_alone:Class")
    with pytest.raises(ImportError, match=r"is a folder of results"):
        module_of("lies_here_alone:Class")
    trust("lies_here_alone:Class", anywhere=True)
    assert module_of("lies_here_alone:Class").__file__ == str(tmp_path / "lies_here_alone.py")
