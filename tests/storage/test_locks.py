"""A folder has one writer at a time, on this machine and across machines, also after kill -9 and with any clock."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
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

HOLDING = """
import sys, time
from syncclip.storage import lock
with lock(sys.argv[1], "train"):
    print("held", flush=True)
    time.sleep(600)
"""

SUSPENDED = """
import platform, sys
platform.node = lambda: "elsewhere"
from syncclip import storage
from syncclip.storage import locks
locks.INTERVAL = 0.2
try:
    with locks.lock(sys.argv[1], "train"):
        print("held", flush=True)
        sys.stdin.readline()
        storage.write_bytes(sys.argv[1] + "/run.json", b"the old owner's")
except storage.LostLockError as error:
    print(error)
"""

WAITING = """
import contextlib, sys, threading
from syncclip.runtime.shutdown import listening
from syncclip.storage import locks
locks.INTERVAL = 0.05
try:
    with listening() if sys.argv[2] else contextlib.nullcontext(), locks.lock(sys.argv[1], "train"):
        print("held", flush=True)
        threading.Event().wait()
except locks.LostLockError as error:
    print(error)
"""


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder that isn't there yet."""
    if request.param == "s3":
        with s3_bucket() as bucket:
            yield f"{bucket}/runs/one"
    else:
        yield str(tmp_path / "runs" / "one")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The process's count of seconds, which passes only where something waits; and what happens while it does."""
    now = [1000.0]
    monkeypatch.setattr(locks, "_now", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process, which holds the folder `runs/one`."""
    line = [sys.executable, "-c", HOLDING, str(tmp_path / "runs" / "one")]
    with subprocess.Popen(line, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def file_of(folder: str) -> str:
    return storage.join(folder, ".syncclip.lock")


def from_elsewhere(folder: str, renewed: int = 0) -> None:
    """Let another machine's process hold the folder, or renew its lock."""
    owner = {**Owner.here().model_dump(), "host": "node7", "user": "ada", "pid": 12}
    content = {"command": "synth", "owner": owner, "since": "2026-01-01 00:00 UTC", "token": "t"}
    assert swap(file_of(folder), read_current(file_of(folder)), json.dumps(content).encode() + b"\n" * renewed)


def settled(folder: str) -> float:
    """Seconds for which a new owner waits for requests that the old one has sent."""
    return 3.0 if folder.startswith("s3:") else 0.0


def in_another_thread(action: Any) -> BaseException | None:
    """What an action of another thread raised: there nothing is held that is held here."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def take(folder: str, **how: Any) -> None:
    with lock(folder, "export", **how):
        pass


def test_a_folder_is_held_as_long_as_the_block_lasts_and_no_listing_shows_it(folder: str) -> None:
    with lock(folder, "train"):
        assert storage.listdir(folder) == [] and storage.sizes(folder) == {}
        assert read_current(file_of(folder)) is not None
        storage.write_bytes(storage.join(folder, "run.json"), b"{}")
    assert read_current(file_of(folder)) is None
    assert storage.listdir(folder) == ["run.json"]


def test_a_second_writer_is_refused_and_told_who_holds_it_since_when(folder: str) -> None:
    with lock(folder, "train"):
        since = json.loads(read_current(file_of(folder)) or b"")["since"]
        error = in_another_thread(lambda: take(folder))
        assert isinstance(error, UserError)
        mine = Owner.here()
        assert str(error) == (
            f"{folder}: `train` of {mine.user}@{mine.host} (process {mine.pid}) writes there since {since}; wait for "
            "its end, or choose another folder"
        )
        take(storage.join(folder, "cells", "a"))  # of another folder it is none
    take(folder)


def test_whoever_holds_a_folder_is_not_refused_by_itself(folder: str) -> None:
    with lock(folder, "study"):
        take(folder)
        assert read_current(file_of(folder)) is not None  # still that of the outer block
        assert in_another_thread(lambda: take(folder)) is not None


def test_one_folder_has_one_lock_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with lock(str(tmp_path / "real"), "train"):
        for name in (f"{tmp_path}/link", f"file://{tmp_path}/real/", f"{tmp_path}/link/../real"):
            assert isinstance(in_another_thread(lambda name=name: take(name)), UserError)


def test_a_file_is_held_without_its_folder(folder: str) -> None:
    file = storage.join(folder, "captions.json")
    with lock(file, "captions", file=True):
        assert isinstance(in_another_thread(lambda: take(file, file=True)), UserError)
        assert in_another_thread(lambda: take(storage.join(folder, "others.json"), file=True)) is None
        assert in_another_thread(lambda: take(folder)) is None
        assert storage.listdir(folder) == []
    assert storage.listdir(folder) == []


def test_folders_that_were_made_for_nothing_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="no such class"), lock(str(tmp_path / "mine" / "a" / "b"), "synth"):
        raise UserError("no such class")
    assert list(tmp_path.rglob("*")) == [tmp_path / "mine"]


def test_a_live_process_is_never_robbed_though_it_stands_still(
    tmp_path: Path, holder: subprocess.Popen[bytes], clock: list[float]
) -> None:
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match=rf"`train` of .* \(process {holder.pid}\) writes there since .*; wait for its"):
        take(str(tmp_path / "runs" / "one"), patience=1000.0)
    assert clock[0] >= 2000.0


def test_the_lock_of_a_killed_process_is_taken_over_at_once(
    tmp_path: Path, holder: subprocess.Popen[bytes], clock: list[float]
) -> None:
    holder.kill()
    holder.wait()
    take(str(tmp_path / "runs" / "one"))
    assert clock[0] == 1000.0


def test_a_silent_lock_of_another_machine_is_taken_over_after_three_renewals(
    folder: str, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    from_elsewhere(folder)
    take(folder)
    assert clock[0] == 1045.0 + settled(folder)
    assert capsys.readouterr().err == (
        f"{folder}: `synth` of ada@node7 (process 12) writes there since 2026-01-01 00:00 UTC; waiting for up to "
        "45 s, in case that command has ended\n"
    )


@pytest.mark.parametrize(
    ("renewals", "refused"), [([1, 16, 31], 31), ([14, 29, 44], 44), ([44], 44), ([1, 16], None), ([10, 54, 60], 54)]
)
def test_a_lock_of_another_machine_is_left_to_a_process_that_renews_it_for_longer_than_an_end_takes(
    folder: str, clock: list[float], monkeypatch: pytest.MonkeyPatch, renewals: list[int], refused: int | None
) -> None:
    from_elsewhere(folder)

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if (passed := round(clock[0] - 1000)) in renewals:
            from_elsewhere(folder, renewed=passed)

    monkeypatch.setattr("time.sleep", sleep)
    if refused is None:
        take(folder)
        assert clock[0] == 1000.0 + renewals[-1] + 45.0 + settled(folder)
    else:
        with pytest.raises(UserError, match="`synth` of ada@node7"):
            take(folder)
        assert clock[0] == 1000.0 + refused


def test_a_lock_that_was_not_wholly_written_is_waited_for_and_then_taken_over(folder: str, clock: list[float]) -> None:
    swap(file_of(folder), None, b"")
    take(folder)
    assert clock[0] == 1045.0 + settled(folder)


def test_of_several_that_take_over_one_does(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SILENCE", 0.0)
    monkeypatch.setattr(locks, "SETTLE", 0.0)
    from_elsewhere(folder)
    together, tried = threading.Barrier(4), threading.Barrier(4)
    outcomes: list[str] = []

    def contend() -> None:
        together.wait()
        try:
            with lock(folder, "train"):
                outcomes.append("held")
                tried.wait()
        except UserError:
            outcomes.append("refused")
            tried.wait()

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held", "refused", "refused", "refused"]


def test_renewing_changes_the_lock_and_keeps_it(folder: str) -> None:
    with lock(folder, "train") as hold:
        before = read_current(file_of(folder))
        hold.renew()
        assert read_current(file_of(folder)) not in (before, None)
        hold.check()
    assert read_current(file_of(folder)) is None


def test_a_lock_is_renewed_beside_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "INTERVAL", 0.001)
    with lock(str(tmp_path), "train"):
        while (read_current(file_of(str(tmp_path))) or b"").count(b"\n") < 3:
            pass


def test_an_owner_that_stood_still_and_was_robbed_writes_nothing_more(folder: str, clock: list[float]) -> None:
    file = storage.join(folder, "run.json")
    robbed = r"one: `synth` of ada@node7 .* after this command stopped renewing"
    with pytest.raises(LostLockError, match=robbed), lock(folder, "train"):
        storage.write_bytes(file, b"first")
        from_elsewhere(folder)
        clock[0] += 31.0  # two renewals are due
        for write in (
            lambda: storage.write_bytes(file, b"second"),
            lambda: storage.publish(__file__, file),
            lambda: storage.remove(file),
        ):
            with pytest.raises(LostLockError, match=robbed):
                write()
    assert storage.read_bytes(file) == b"first"
    assert b"node7" in (read_current(file_of(folder)) or b"")  # whose it is now
    storage.write_bytes(file, b"third")  # what this process does next has nothing to do with it


def test_a_folder_that_vanishes_ends_the_command_with_its_name(folder: str) -> None:
    removed = r"one: removed in the middle of the work, .* remove it and run the same command again"
    with pytest.raises(LostLockError, match=removed), lock(folder, "synth"):
        storage.remove(folder, recursive=True)


def test_a_vanished_local_folder_is_not_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(LostLockError), lock(str(folder), "synth"):
        storage.remove(str(folder), recursive=True)
        storage.write_bytes(str(folder / "00000.tar"), b"")
    assert not folder.exists()


def test_what_broke_since_the_folder_vanished_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(LostLockError, match="removed in the middle"), lock(str(tmp_path / "run"), "train"):
        storage.remove(str(tmp_path / "run"), recursive=True)
        raise AssertionError("no record")


def test_an_interrupt_stays_an_interrupt(folder: str) -> None:
    with pytest.raises(KeyboardInterrupt), lock(folder, "train"):
        storage.remove(folder, recursive=True)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), lock(folder, "train"):
        raise KeyboardInterrupt
    assert read_current(file_of(folder)) is None


def test_a_suspended_process_that_another_machine_took_over_from_writes_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "SILENCE", 0.6)
    monkeypatch.setattr(locks, "POLL", 0.05)
    line = [sys.executable, "-c", SUSPENDED, str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        process.send_signal(signal.SIGSTOP)
        with lock(str(tmp_path), "train"):
            storage.write_bytes(str(tmp_path / "run.json"), b"the new owner's")
            process.send_signal(signal.SIGCONT)
            said, _ = process.communicate(b"write\n")
        assert b"after this command stopped renewing its lock; this one ends here" in said
    assert (tmp_path / "run.json").read_bytes() == b"the new owner's"


def test_a_lock_that_is_half_renewed_is_none_that_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock(str(tmp_path), "train") as hold, current().under_lock(str(tmp_path), hold.token):
        whole = read_current(file_of(str(tmp_path))) or b""
        looks = iter([whole[:-1], None, whole])
        monkeypatch.setattr(locks, "read_current", lambda place: next(looks))
        worker = locks.check(str(tmp_path / "prompts"))
        assert worker is not None and worker is not hold
        worker.confirm()
        assert next(looks, None) is None
        monkeypatch.undo()


@pytest.mark.parametrize("fault", [*DAMAGING, "404"])
def test_a_spoilt_answer_loses_no_lock(fault: Fault) -> None:
    with faulty_bucket() as (bucket, proxy), lock(f"{bucket}/run", "train") as hold:
        for method in ("HEAD", "GET", "PUT"):
            proxy.spoil(fault, times=1, method=method)
            hold.renew()
            hold.check()
            proxy.soothe()


@pytest.mark.parametrize("listening", [False, True])
def test_a_command_that_only_waits_is_interrupted_where_its_folder_vanishes(tmp_path: Path, listening: bool) -> None:
    line = [sys.executable, "-c", WAITING, str(tmp_path / "run"), "listening" * listening]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        storage.remove(str(tmp_path / "run"), recursive=True)
        said, _ = process.communicate()
    assert said.startswith(f"{tmp_path}/run: removed in the middle of the work")


def test_a_worker_writes_as_long_as_its_driver_holds_the_folder(folder: str) -> None:
    file = storage.join(folder, "prompts")
    with lock(folder, "train") as hold:
        token = hold.token
        with current().under_lock(folder, token):
            storage.write_bytes(file, b"1")
            hold.renew()
            storage.write_bytes(file, b"2")
    with current().under_lock(folder, token), pytest.raises(LostLockError, match="removed in the middle"):
        storage.write_bytes(file, b"3")
    taken = pytest.raises(LostLockError, match=r"`train` of .*, after this")
    with lock(folder, "train"), current().under_lock(folder, token), taken:  # by the driver's successor
        storage.write_bytes(file, b"3")
    assert storage.read_bytes(file) == b"2"
    with current().under_lock(folder, None):
        storage.write_bytes(file, b"4")


def test_a_place_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/\.syncclip\.lock: .*; choose a location that you may"):
        take(str(tmp_path / "file"))


def test_a_store_that_is_away_for_a_while_costs_nothing(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock(folder, "train") as hold:
        with monkeypatch.context() as away:

            def unreachable(*_: Any) -> bool:
                raise storage.UnreachableError("away")

            away.setattr(locks, "swap", unreachable)
            hold.beat()
        hold.beat()
        hold.check()
