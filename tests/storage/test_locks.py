"""A folder has one writer at a time, on one or several machines, also after kill -9 and with any clock."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from syncclip import storage
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.runtime.processes import Owner
from syncclip.storage import LostLockError, lock, locks
from syncclip.storage.conditional_writes import read_current, swap
from tests.object_store import faulty_bucket, s3_bucket
from tests.worlds.faulty_s3 import DAMAGING, Fault

OWNER = """
import contextlib, platform, sys, threading
from syncclip import storage
from syncclip.runtime.shutdown import listening
from syncclip.storage import locks
folder, *options = sys.argv[1:]
if "elsewhere" in options:
    platform.node = lambda: "elsewhere"
locks.INTERVAL = 0.1
try:
    with listening() if "listening" in options else contextlib.nullcontext(), locks.lock(folder, "train"):
        print("locked", flush=True)
        if "writing" in options:
            sys.stdin.readline()
            storage.write_bytes(folder + "/run.json", b"old owner")
        threading.Event().wait()
except locks.LostLockError as error:
    print(error)
"""


@contextmanager
def other_owner(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Lock a folder in another process."""
    command = [sys.executable, "-c", OWNER, str(folder), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a folder that does not exist."""
    if request.param == "s3":
        with s3_bucket() as bucket:
            yield f"{bucket}/runs/one"
    else:
        yield str(tmp_path / "runs" / "one")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock: its only element, the time in seconds, advances when the process sleeps."""
    now = [1000.0]
    monkeypatch.setattr(locks, "_now", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def lock_file(folder: str) -> str:
    return storage.join(folder, ".syncclip.lock")


def lock_elsewhere(folder: str, renewals: int = 0) -> None:
    """Lock the folder as a process of another machine, which has renewed its lock this many times."""
    owner = {**Owner.here().model_dump(), "host": "node7", "user": "ada", "pid": 12}
    content = {"command": "synth", "owner": owner, "since": "2026-01-01 00:00 UTC", "token": "t"}
    assert swap(lock_file(folder), read_current(lock_file(folder)), json.dumps(content).encode() + b"\n" * renewals)


def pause(folder: str) -> float:
    """Return the seconds for which a new owner waits for requests that the old one has sent."""
    return 3.0 if folder.startswith("s3:") else 0.0


def in_another_thread(action: Any) -> BaseException | None:
    """Run an action in another thread, which does not share this thread's locks; return its error."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(action).exception()


def take(folder: str, **options: Any) -> None:
    with lock(folder, "export", **options):
        pass


def test_a_folder_is_locked_during_the_block_and_its_lock_is_not_listed(folder: str) -> None:
    with lock(folder, "train") as hold:
        assert storage.listdir(folder) == [] and storage.sizes(folder) == {}
        before = read_current(lock_file(folder))
        hold.renew()
        assert None not in (before, read_current(lock_file(folder))) and read_current(lock_file(folder)) != before
        hold.check()
        storage.write_bytes(storage.join(folder, "run.json"), b"{}")
    assert read_current(lock_file(folder)) is None
    assert storage.listdir(folder) == ["run.json"]


def test_a_second_writer_gets_an_error_with_the_owner_and_the_time(folder: str) -> None:
    with lock(folder, "train"):
        since = json.loads(read_current(lock_file(folder)) or b"")["since"]
        error = in_another_thread(lambda: take(folder))
        assert isinstance(error, UserError)
        owner = Owner.here()
        assert str(error) == (
            f"{folder}: `train` of {owner.user}@{owner.host} (process {owner.pid}) has held the lock "
            f"since {since}; wait until that command ends, or choose a different folder"
        )
        take(storage.join(folder, "cells", "a"))
        take(folder)  # in the same thread
        assert read_current(lock_file(folder)) is not None
        assert in_another_thread(lambda: take(folder)) is not None
    take(folder)


def test_all_paths_of_a_folder_have_the_same_lock(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with lock(str(tmp_path / "real"), "train"):
        for name in (f"{tmp_path}/link", f"file://{tmp_path}/real/", f"{tmp_path}/link/../real"):
            assert isinstance(in_another_thread(lambda name=name: take(name)), UserError)


def test_a_file_is_locked_without_its_folder(folder: str) -> None:
    file = storage.join(folder, "captions.json")
    with lock(file, "captions", file=True):
        assert isinstance(in_another_thread(lambda: take(file, file=True)), UserError)
        assert in_another_thread(lambda: take(storage.join(folder, "others.json"), file=True)) is None
        assert in_another_thread(lambda: take(folder)) is None
        assert storage.listdir(folder) == []
    assert storage.listdir(folder) == []


def test_folders_created_for_a_lock_are_removed_if_empty(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with pytest.raises(UserError, match="no such class"), lock(str(tmp_path / "own" / "a" / "b"), "synth"):
        raise UserError("no such class")
    assert list(tmp_path.rglob("*")) == [tmp_path / "own"]


def test_a_lock_is_taken_over_if_its_process_was_killed_but_not_if_it_is_suspended(
    tmp_path: Path, clock: list[float]
) -> None:
    with other_owner(tmp_path) as owner:
        owner.send_signal(signal.SIGSTOP)
        with pytest.raises(UserError, match=rf"\(process {owner.pid}\) has held the lock since"):
            take(str(tmp_path), patience=1000.0)
        waited = clock[0]
        owner.kill()
        owner.wait()
        take(str(tmp_path))
    assert clock[0] == waited >= 2000.0


def test_a_lock_of_another_machine_is_taken_over_after_three_missing_renewals(
    folder: str, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lock_elsewhere(folder)
    take(folder)
    assert clock[0] == 1045.0 + pause(folder)
    assert capsys.readouterr().err == (
        f"{folder}: `synth` of ada@node7 (process 12) has held the lock since 2026-01-01 00:00 UTC; waiting for "
        "up to 45 s, in case that command has ended\n"
    )


@pytest.mark.parametrize(("renewals", "rejected"), [([1, 16, 31], 31), ([44], 44), ([1, 16], None), ([10, 54, 60], 54)])
@pytest.mark.parametrize("folder", ["local"], indirect=True)
def test_a_lock_of_another_machine_that_is_renewed_after_the_grace_period_is_an_error(
    folder: str, clock: list[float], monkeypatch: pytest.MonkeyPatch, renewals: list[int], rejected: int | None
) -> None:
    lock_elsewhere(folder)

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if (passed := round(clock[0] - 1000)) in renewals:
            lock_elsewhere(folder, renewals=passed)

    monkeypatch.setattr("time.sleep", sleep)
    if rejected is None:
        take(folder)
        assert clock[0] == 1000.0 + renewals[-1] + 45.0 + pause(folder)
    else:
        with pytest.raises(UserError, match="`synth` of ada@node7"):
            take(folder)
        assert clock[0] == 1000.0 + rejected


def test_an_incomplete_lock_is_taken_over(folder: str, clock: list[float]) -> None:
    swap(lock_file(folder), None, b"")
    take(folder)
    assert clock[0] == 1045.0 + pause(folder)


def test_one_of_several_processes_takes_over(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SILENCE", 0.0)
    monkeypatch.setattr(locks, "SETTLE", 0.0)
    lock_elsewhere(folder)
    started, tried = threading.Barrier(4), threading.Barrier(4)
    outcomes: list[str] = []

    def contend() -> None:
        started.wait()
        try:
            with lock(folder, "train"):
                outcomes.append("held")
                tried.wait()
        except UserError:
            outcomes.append("rejected")
            tried.wait()

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "rejected", "rejected", "rejected"]


def test_a_lock_is_renewed_periodically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "INTERVAL", 0.001)
    with lock(str(tmp_path), "train"):
        while (read_current(lock_file(str(tmp_path))) or b"").count(b"\n") < 3:
            pass


def test_an_owner_that_lost_its_lock_cannot_write(folder: str, clock: list[float]) -> None:
    file = storage.join(folder, "run.json")
    taken_over = r"one: `synth` of ada@node7 .* after this command stopped renewing"
    with pytest.raises(LostLockError, match=taken_over), lock(folder, "train"):
        storage.write_bytes(file, b"first")
        lock_elsewhere(folder)
        clock[0] += 31.0  # two renewals are due
        for write in (
            lambda: storage.write_bytes(file, b"second"),
            lambda: storage.publish(__file__, file),
            lambda: storage.remove(file),
        ):
            with pytest.raises(LostLockError, match=taken_over):
                write()
    assert storage.read_bytes(file) == b"first"
    assert b"node7" in (read_current(lock_file(folder)) or b"")
    storage.write_bytes(file, b"third")


def test_a_removed_folder_is_an_error_with_its_name(folder: str) -> None:
    with (
        pytest.raises(LostLockError, match=r"/one: the folder or its .* was removed while this command ran"),
        lock(folder, "synth"),
    ):
        storage.remove(folder, recursive=True)


def test_a_removed_local_folder_is_not_created_again(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(LostLockError), lock(str(folder), "synth"):
        storage.remove(str(folder), recursive=True)
        storage.write_bytes(str(folder / "00000.tar"), b"")
    assert not folder.exists()
    with pytest.raises(LostLockError, match="was removed"), lock(str(folder), "train"):
        storage.remove(str(folder), recursive=True)
        raise AssertionError("an error caused by the removal")


def test_an_interrupt_takes_precedence_over_a_lost_lock(folder: str) -> None:
    with pytest.raises(KeyboardInterrupt), lock(folder, "train"):
        storage.remove(folder, recursive=True)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), lock(folder, "train"):
        raise KeyboardInterrupt
    assert read_current(lock_file(folder)) is None


def test_a_suspended_process_cannot_write_after_a_takeover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SILENCE", 0.6)
    monkeypatch.setattr(locks, "POLL", 0.05)
    with other_owner(tmp_path, "elsewhere", "writing") as owner:
        owner.send_signal(signal.SIGSTOP)
        with lock(str(tmp_path), "train"):
            storage.write_bytes(str(tmp_path / "run.json"), b"new owner")
            owner.send_signal(signal.SIGCONT)
            out, _ = owner.communicate("write\n")
        assert "after this command stopped renewing its lock" in out
    assert (tmp_path / "run.json").read_bytes() == b"new owner"


def test_an_incomplete_renewal_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock(str(tmp_path), "train") as hold, current().under_lock(str(tmp_path), hold.token):
        complete = read_current(lock_file(str(tmp_path))) or b""
        contents = iter([complete[:-1], None, complete])
        monkeypatch.setattr(locks, "read_current", lambda url: next(contents))
        worker = locks.check(str(tmp_path / "prompts"))
        assert worker is not None and worker is not hold
        worker.confirm()
        assert next(contents, None) is None
        monkeypatch.undo()


def test_a_corrupt_response_loses_no_lock() -> None:
    faults: tuple[Fault, ...] = (*DAMAGING, "404")
    with faulty_bucket() as (bucket, proxy), lock(f"{bucket}/run", "train") as hold:
        for fault in faults:
            for method in ("HEAD", "GET", "PUT"):
                proxy.spoil(fault, times=1, method=method)
                hold.renew()
                hold.check()
                proxy.soothe()


@pytest.mark.parametrize("listening", [False, True])
def test_a_waiting_command_is_interrupted_when_its_folder_is_removed(tmp_path: Path, listening: bool) -> None:
    with other_owner(tmp_path / "run", "listening" * listening) as owner:
        storage.remove(str(tmp_path / "run"), recursive=True)
        out, _ = owner.communicate()
    assert out.startswith(f"{tmp_path}/run: the folder or its")


def test_a_worker_writes_while_its_driver_has_the_lock(folder: str) -> None:
    file = storage.join(folder, "prompts")
    with lock(folder, "train") as hold:
        token = hold.token
        with current().under_lock(folder, token):
            storage.write_bytes(file, b"1")
            hold.renew()
            storage.write_bytes(file, b"2")
    with current().under_lock(folder, token), pytest.raises(LostLockError, match="was removed"):
        storage.write_bytes(file, b"3")
    taken = pytest.raises(LostLockError, match=r"`train` of .* after this")
    with lock(folder, "train"), current().under_lock(folder, token), taken:
        storage.write_bytes(file, b"3")
    assert storage.read_bytes(file) == b"2"
    with current().under_lock(folder, None):
        storage.write_bytes(file, b"4")


@pytest.mark.parametrize("overlapping", [range(8), range(7, 9), None])
def test_locks_on_overlapping_ranges_exclude_each_other(folder: str, overlapping: range | None) -> None:
    with lock(folder, "synth --shards 0:8", shards=range(8)):
        take(folder, shards=range(8))  # in the same thread
        assert in_another_thread(lambda: take(folder, shards=range(8, 16))) is None
        assert storage.listdir(folder) == []
        error = in_another_thread(lambda: take(folder, shards=overlapping))
        assert isinstance(error, UserError) and "`synth --shards 0:8` of " in str(error)
    with lock(folder, "synth", shards=overlapping):
        assert in_another_thread(lambda: take(folder, shards=range(8))) is not None
    take(folder)


def test_a_lock_on_a_range_covers_all_files_but_those_of_other_shards(folder: str) -> None:
    with lock(folder, "synth", shards=range(8)) as hold:
        token = hold.token
    names = {
        "00007.tar": True,
        "00008.tar": False,
        "00007_stats.json": True,
        "status-00000-00008.json": True,
        "plan.json": True,
    }
    with lock(folder, "synth", shards=range(8)):  # the lock of `token` is lost
        for name, covered in names.items():
            lost = pytest.raises(LostLockError) if covered else nullcontext()
            with ThreadPoolExecutor(1) as threads, lost:
                threads.submit(write_under, folder, token, name).result()
            assert storage.exists(storage.join(folder, name)) != covered, name


def test_a_lock_is_renewed_while_it_waits_for_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock on the folder waits for the lock on a range, whose owner on another machine is lost."""
    folder, beats = str(tmp_path), list[str]()
    monkeypatch.setattr(locks, "INTERVAL", 0.05)
    monkeypatch.setattr(locks, "SILENCE", 1.0)
    monkeypatch.setattr(locks.Hold, "beat", lambda hold: beats.append(hold.lock_url))
    owner = {**Owner.here().model_dump(), "host": "node7", "pid": 12}
    content = {"command": "synth", "owner": owner, "since": "2026-01-01 00:00 UTC", "token": "t"}
    assert swap(f"{folder}/.shards-00000-00008.lock", None, json.dumps(content).encode())
    with lock(folder, "synth"):
        assert lock_file(folder) in beats


def write_under(folder: str, token: str, name: str) -> None:
    """Write a file as an actor of the driver that has, or had, the lock `token`."""
    with current().under_lock(folder, token):
        storage.write_bytes(storage.join(folder, name), b"1")


@pytest.mark.parametrize("shards", [range(4, 9), None])
def test_an_overlapping_range_is_taken_over_if_its_process_was_killed(folder: str, shards: range | None) -> None:
    name = storage.join(folder, ".shards-00000-00008.lock")
    owner = {**Owner.here().model_dump(), "pid": 2**22 - 1}
    content = {"command": "synth", "owner": owner, "since": "2026-01-01 00:00 UTC", "token": "t"}
    storage.write_bytes(storage.join(folder, "00000.tar"), b"1")
    assert swap(name, None, json.dumps(content).encode())
    take(folder, shards=shards)
    assert read_current(name) is None and storage.listdir(folder) == ["00000.tar"]


def test_an_unwritable_location_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/\.syncclip\.lock"):
        take(str(tmp_path / "file"))


def test_an_unreachable_store_loses_no_lock(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock(folder, "train") as hold:
        with monkeypatch.context() as failing:

            def unreachable(*_: Any) -> bool:
                raise storage.UnreachableError("unreachable")

            failing.setattr(locks, "swap", unreachable)
            hold.beat()
        hold.beat()
        hold.check()
