"""Custom code that the user has run is accepted again only from the same unchanged files."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from syncclip.core.consent import changed_file, code_files, has_consent, record_consent
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.core.trust import module_of, remember, require_trust, trust, trusted
from tests.core.test_permissions import become_another_user, mode

NAME = "consentpackage.way:Way"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a package that imports a module from the same folder; consent is recorded."""
    folder, state = tmp_path / "project", tmp_path / "state"
    (folder / "consentpackage").mkdir(parents=True)
    (folder / "consentpackage" / "__init__.py").touch()
    (folder / "consentpackage" / "way.py").write_text("import consenthelper\nclass Way: pass\n")
    (folder / "consenthelper.py").write_text("number = 1\n")
    (folder / "unrelated.py").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    trust(NAME)
    module_of(NAME)
    remember(NAME)
    yield folder
    for module in ("consentpackage.way", "consentpackage", "consenthelper"):
        sys.modules.pop(module, None)
    importlib.invalidate_caches()


def accepted(folder: Path | None = None, name: str = NAME) -> bool:
    return has_consent(name, [str(folder or Path.cwd())])


def record(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "state" / "syncclip" / "trusted").iterdir()
    return path


def test_a_record_is_private_and_contains_only_the_imported_files(project: Path, tmp_path: Path) -> None:
    path = record(tmp_path)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    files = {Path(file).relative_to(project).as_posix() for file in json.loads(path.read_text())}
    assert files == {"consentpackage/__init__.py", "consentpackage/way.py", "consenthelper.py"}
    assert accepted()


@pytest.mark.parametrize("changed", ["consentpackage/way.py", "consentpackage/__init__.py", "consenthelper.py"])
def test_changed_code_needs_consent_again(project: Path, changed: str) -> None:
    before = (project / changed).read_text()
    (project / changed).write_text(before + "import os\n")
    assert not accepted()
    assert changed_file(NAME, [str(project)]) == str(project / changed)
    with replace(current().copy(), trusted={}), pytest.raises(UserError, match=rf"has changed .*{changed}\); train"):
        require_trust(NAME)
    (project / changed).write_text(before)
    (project / "unrelated.py").write_text("import os\n")
    assert accepted()


def test_a_copy_in_another_folder_is_not_accepted(project: Path, tmp_path: Path) -> None:
    """It could import other modules, under names that do not exist in the project."""
    assert not accepted(shutil.copytree(project, tmp_path / "cloned"))


def test_code_that_precedes_the_project_on_the_path_is_not_accepted(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "consentpackage", tmp_path / "first" / "consentpackage")
    assert not has_consent(NAME, [str(tmp_path / "first"), str(project)])


def test_another_class_of_the_same_file_is_not_accepted(project: Path) -> None:
    assert not accepted(name="consentpackage.way:Other")


def test_the_code_is_not_executed_before_it_is_accepted(project: Path, tmp_path: Path) -> None:
    for module in ("consentpackage.way", "consentpackage", "consenthelper"):
        del sys.modules[module]
    for file in ("consentpackage/__init__.py", "consentpackage/way.py"):
        (project / file).write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    importlib.invalidate_caches()
    assert not accepted() and "consentpackage" not in sys.modules
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"a": 1}', b"[" * 5000])
def test_a_damaged_record_is_ignored(project: Path, tmp_path: Path, content: bytes) -> None:
    record(tmp_path).write_bytes(content)
    assert not accepted()
    record_consent(NAME, [str(project)])
    assert accepted()


def test_records_of_other_users_are_ignored(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    become_another_user(monkeypatch)
    assert not accepted()


def test_a_record_that_others_can_write_is_ignored(project: Path, tmp_path: Path) -> None:
    record(tmp_path).chmod(0o622)
    assert not accepted()


def test_a_link_is_no_record(project: Path, tmp_path: Path) -> None:
    path = record(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert not accepted()


@pytest.mark.parametrize("home", ["relative", "/dev/null/state"])
def test_without_a_folder_for_the_users_state_nothing_is_recorded(
    project: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    """A relative path would depend on the working directory, which may be a download."""
    monkeypatch.setenv("XDG_STATE_HOME", home)
    record_consent(NAME, [str(project)])
    assert not accepted() and not (project / "relative").exists()


def test_processes_may_record_the_same_code_at_the_same_time(project: Path, tmp_path: Path) -> None:
    path = record(tmp_path)

    def write(_: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        record_consent(NAME, [str(project)])
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(write, range(40)))
    record_consent(NAME, [str(project)])
    assert accepted() and record(tmp_path) == path


def test_consent_is_recorded_only_for_code_of_the_users_own_recipe(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    trust(NAME, anywhere=True)
    remember(NAME)
    remember("coop")
    assert not (tmp_path / "other").exists()


def test_accepted_code_is_trusted_in_the_session_and_not_from_a_results_folder(project: Path) -> None:
    with replace(current().copy(), trusted={}):
        require_trust(NAME)
        assert trusted() == (NAME,) and current().trusted == {NAME: False}
    (project / "run.json").touch()
    sys.path.remove(os.fspath(project))
    with replace(current().copy(), trusted={}), pytest.raises(UserError, match="is custom code"):
        require_trust(NAME)


@pytest.mark.parametrize(
    ("statement", "files"),
    [
        ("import other", set()),
        ("import consenthelper as other", {"consenthelper"}),
        ("from consenthelper import number", {"consenthelper"}),
        ("from . import beside", {"consentpackage.beside"}),
        ("from .beside import number", {"consentpackage.beside"}),
        ("import consentpackage.beside", {"consentpackage.beside"}),
        ("def lazy():\n    from consentpackage import beside", {"consentpackage.beside"}),
    ],
)
def test_files_of_custom_code_are_those_that_it_imports(project: Path, statement: str, files: set[str]) -> None:
    (project / "consentpackage" / "beside.py").touch()
    (project / "consentpackage" / "way.py").write_text(f"{statement}\nclass Way: pass\n")
    assert code_files(NAME).keys() == {"consentpackage", "consentpackage.way"} | files


def test_files_of_an_installed_package_are_its_own(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = project.rename(project.with_name("site-packages"))
    monkeypatch.setattr(sys.modules["consentpackage.way"], "__file__", str(installed / "consentpackage" / "way.py"))
    assert code_files(NAME).keys() == {"consentpackage", "consentpackage.way"}
