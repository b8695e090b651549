"""A folder of copies that the processes of a machine share."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from syncclip.shards.shared_folder import SharedFolder

FORK = multiprocessing.get_context("fork")


def writes(data: bytes) -> Callable[[Path], None]:
    def fetch(path: Path) -> None:
        path.write_bytes(data)

    return fetch


def never(path: Path) -> None:
    raise AssertionError("copied again")


def taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_a_file_is_copied_once_and_then_found(tmp_path: Path) -> None:
    folder = SharedFolder(tmp_path, 100)
    first = folder.open("a", 5, writes(b"hello"))
    again = SharedFolder(tmp_path, 100).open("a", 5, never)
    assert first is not None and again is not None
    assert os.pread(again, 5, 0) == b"hello"
    assert taken(tmp_path) == 5


def test_the_least_recently_opened_goes_first(tmp_path: Path) -> None:
    folder = SharedFolder(tmp_path, 10)
    for time_of_use, name in enumerate(["a", "b"]):
        opened = folder.open(name, 4, writes(b"four"))
        assert opened is not None
        os.close(opened)
        os.utime(tmp_path / f"{name}-4", (time_of_use, time_of_use))
    assert folder.open("c", 4, writes(b"four")) is not None
    assert sorted(path.name for path in tmp_path.glob("*-4")) == ["b-4", "c-4"]


def test_a_copy_gets_its_name_while_nobody_reckons_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, seen = Path.replace, []

    def replace(part: Path, path: Path) -> Path:
        with (tmp_path / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append(path.name)
        return honest(part, path)

    monkeypatch.setattr(Path, "replace", replace)
    assert SharedFolder(tmp_path, 10).open("a", 5, writes(b"hello")) is not None
    assert seen == ["a-5"]


def test_a_held_file_stays_and_without_room_there_is_no_copy(tmp_path: Path) -> None:
    folder = SharedFolder(tmp_path, 6)
    held = folder.open("a", 4, writes(b"four"))
    assert held is not None
    assert folder.open("b", 4, never) is None
    os.close(held)
    assert folder.open("b", 4, writes(b"more")) is not None
    assert taken(tmp_path) == 4


def test_an_error_of_the_copy_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        path.write_bytes(b"ha")
        raise OSError("torn")

    with pytest.raises(OSError, match="torn"):
        SharedFolder(tmp_path, 100).open("a", 4, fails)
    assert taken(tmp_path) == 0
    assert SharedFolder(tmp_path, 100).open("a", 4, writes(b"four")) is not None


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert SharedFolder(tmp_path, 4).open("a", 4, writes(b"four")) is not None
    assert (tmp_path / "notes.txt").read_text() == "mine"


def _copy(folder: Path, name: str) -> None:
    def fetch(path: Path) -> None:
        with (folder / "copies").open("a") as file:
            file.write(f"{name}\n")
        time.sleep(0.05)
        path.write_bytes(name.encode() * 4)

    opened = SharedFolder(folder / "cache", 100).open(name, 4, fetch)
    assert opened is not None and os.pread(opened, 4, 0) == name.encode() * 4


def test_processes_and_threads_copy_each_file_once(tmp_path: Path) -> None:
    processes = [FORK.Process(target=_copy, args=(tmp_path, name)) for name in "abab"]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: _copy(tmp_path, name), "abcc"))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert Counter((tmp_path / "copies").read_text().split()) == {"a": 1, "b": 1, "c": 1}


def _copy_for_ever(folder: Path) -> None:
    def fetch(path: Path) -> None:
        path.write_bytes(b"ha")
        (folder / "begun").touch()
        time.sleep(600)

    SharedFolder(folder / "cache", 6).open("a", 4, fetch)


@pytest.mark.fault
def test_what_a_killed_process_held_or_was_copying_takes_no_room(tmp_path: Path) -> None:
    process = FORK.Process(target=_copy_for_ever, args=(tmp_path,))
    process.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    folder = SharedFolder(tmp_path / "cache", 6)
    assert folder.open("b", 4, never) is None  # room is kept for the copy under way
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert folder.open("b", 4, writes(b"four")) is not None
    assert folder.open("a", 2, writes(b"aa")) is not None
    assert taken(tmp_path / "cache") == 6
