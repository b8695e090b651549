"""Files and folders with predictable names are private to the user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from syncclip.core.permissions import make_private, open_private
from syncclip.core.settings import UserError
from syncclip.storage.shared_folder import SharedFolder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def write_hello(path: Path) -> None:
    path.write_bytes(b"hello")


def become_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this process and all files belong to two different users."""
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    original = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = list(original(descriptor))
        status[stat.ST_UID] = 4712
        return os.stat_result(status)

    monkeypatch.setattr(os, "fstat", fstat)


def test_a_new_folder_and_its_files_are_private(tmp_path: Path) -> None:
    folder = SharedFolder(tmp_path / "cache" / "shards", 100)
    opened = folder.open("a", 5, write_hello)
    assert opened is not None
    assert mode(folder.folder) == 0o700
    assert {mode(file) for file in folder.folder.iterdir()} == {0o600}


def test_an_existing_folder_becomes_private(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    make_private(folder)
    assert mode(folder) == 0o700


def test_a_folder_or_file_of_another_user_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir(0o777)
    (tmp_path / "file").write_bytes(b"planted")
    become_another_user(monkeypatch)
    with pytest.raises(UserError, match="folder belongs to user 4712"):
        make_private(tmp_path / "folder")
    with pytest.raises(UserError, match="file belongs to user 4712"):
        open_private(tmp_path / "file", os.O_RDONLY)


def test_links_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UserError, match="link is a link, is inaccessible or has the wrong type"):
        SharedFolder(tmp_path / "link", 100).open("a", 5, lambda path: None)
    assert list(target.iterdir()) == []
    (tmp_path / "shards").mkdir()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in ("lock", "lock00", "a-5", "a-5.part"):
        (tmp_path / "shards" / name).symlink_to(victim)
        with pytest.raises(UserError, match=f"{name} is a link"):
            open_private(tmp_path / "shards" / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    assert victim.read_bytes() == b"precious"


def test_a_pipe_and_a_file_instead_of_a_folder_are_errors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="has the wrong type"):
        open_private(tmp_path / "pipe", os.O_RDONLY)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="has the wrong type"):
        make_private(tmp_path / "file")
