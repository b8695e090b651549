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

from syncclip.core.settings import UserError
from syncclip.storage.shared_folder import SharedFolder

FORK = multiprocessing.get_context("fork")


def writer(data: bytes) -> Callable[[Path], None]:
    def fetch(path: Path) -> None:
        path.write_bytes(data)

    return fetch


def fail(path: Path) -> None:
    raise AssertionError("unexpected copy")


def total_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_a_file_is_copied_once(tmp_path: Path) -> None:
    first = SharedFolder(tmp_path, 100).open("a", 5, writer(b"hello"))
    second = SharedFolder(tmp_path, 100).open("a", 5, fail)
    assert first is not None and second is not None
    assert os.pread(second, 5, 0) == b"hello"
    assert total_size(tmp_path) == 5


def test_the_least_recently_opened_file_is_evicted_first_and_other_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("other")
    folder = SharedFolder(tmp_path, 10)
    for time_of_use, name in enumerate(["a", "b"]):
        descriptor = folder.open(name, 4, writer(b"four"))
        assert descriptor is not None
        os.close(descriptor)
        os.utime(tmp_path / f"{name}-4", (time_of_use, time_of_use))
    assert folder.open("c", 4, writer(b"four")) is not None
    assert sorted(path.name for path in tmp_path.glob("*-4")) == ["b-4", "c-4"]
    assert (tmp_path / "notes.txt").read_text() == "other"


def test_a_copy_is_renamed_under_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, renamed = Path.replace, []

    def replace_under_lock(part: Path, path: Path) -> Path:
        with (tmp_path / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        renamed.append(path.name)
        return replace(part, path)

    monkeypatch.setattr(Path, "replace", replace_under_lock)
    assert SharedFolder(tmp_path, 10).open("a", 5, writer(b"hello")) is not None
    assert renamed == ["a-5"]


def test_an_open_file_is_not_evicted(tmp_path: Path) -> None:
    folder = SharedFolder(tmp_path, 6)
    descriptor = folder.open("a", 4, writer(b"four"))
    assert descriptor is not None
    assert folder.open("b", 4, fail) is None
    os.close(descriptor)
    assert folder.open("b", 4, writer(b"more")) is not None
    assert total_size(tmp_path) == 4


def test_a_failed_copy_is_removed(tmp_path: Path) -> None:
    def fetch(path: Path) -> None:
        path.write_bytes(b"ha")
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        SharedFolder(tmp_path, 100).open("a", 4, fetch)
    assert total_size(tmp_path) == 0
    assert SharedFolder(tmp_path, 100).open("a", 4, writer(b"four")) is not None


def _copy(folder: Path, name: str) -> None:
    def fetch(path: Path) -> None:
        with (folder / "copies").open("a") as file:
            file.write(f"{name}\n")
        time.sleep(0.05)
        path.write_bytes(name.encode() * 4)

    descriptor = SharedFolder(folder / "cache", 100).open(name, 4, fetch)
    assert descriptor is not None and os.pread(descriptor, 4, 0) == name.encode() * 4


def test_concurrent_processes_and_threads_copy_each_file_once(tmp_path: Path) -> None:
    processes = [FORK.Process(target=_copy, args=(tmp_path, name)) for name in "abab"]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: _copy(tmp_path, name), "abcc"))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert Counter((tmp_path / "copies").read_text().split()) == {"a": 1, "b": 1, "c": 1}


def _copy_endlessly(folder: Path) -> None:
    def fetch(path: Path) -> None:
        path.write_bytes(b"ha")
        (folder / "started").touch()
        time.sleep(600)

    SharedFolder(folder / "cache", 6).open("a", 4, fetch)


@pytest.mark.fault
def test_the_partial_copy_of_a_killed_process_is_evicted(tmp_path: Path) -> None:
    process = FORK.Process(target=_copy_endlessly, args=(tmp_path,))
    process.start()
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    folder = SharedFolder(tmp_path / "cache", 6)
    assert folder.open("b", 4, fail) is None  # the running copy is counted with its complete size
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert folder.open("b", 4, writer(b"four")) is not None
    assert folder.open("a", 2, writer(b"aa")) is not None
    assert total_size(tmp_path / "cache") == 6


def test_a_corrupt_file_is_copied_again(tmp_path: Path) -> None:
    folder = SharedFolder(tmp_path)
    assert folder.open("a", 4, writer(b"evil")) is not None
    descriptor = folder.open("a", 4, writer(b"good"), lambda opened: os.pread(opened, 4, 0) == b"good")
    assert descriptor is not None and os.pread(descriptor, 4, 0) == b"good"


def test_a_disk_that_corrupts_each_copy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a-4 is corrupt in each of 3 copies; check the disk"):
        SharedFolder(tmp_path).open("a", 4, writer(b"evil"), lambda _: False)
    assert total_size(tmp_path) == 0
