"""Owners: a process is told from another that has its number, and whether it lives without asking a clock."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from syncclip.runtime import processes
from syncclip.runtime.processes import Owner


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this machine, which sleeps until it is killed."""
    code = "import sys; from syncclip.runtime.processes import Owner; print(Owner.here().model_dump_json(), flush=True)"
    process = subprocess.Popen([sys.executable, "-c", f"{code}; import time; time.sleep(600)"], stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def owner_of(process: subprocess.Popen[bytes]) -> Owner:
    assert process.stdout is not None
    return Owner.model_validate_json(process.stdout.readline())


def test_this_process_is_alive() -> None:
    mine = Owner.here()
    assert mine.pid == os.getpid() and mine.alive() is True
    assert str(mine) == f"{mine.user}@{mine.host} (process {os.getpid()})"


def test_another_process_lives_also_when_it_is_stopped(sleeper: subprocess.Popen[bytes]) -> None:
    other = owner_of(sleeper)
    assert other.pid == sleeper.pid and other.alive() is True
    sleeper.send_signal(signal.SIGSTOP)
    assert other.alive() is True


def test_a_killed_process_is_gone_before_its_parent_looks(sleeper: subprocess.Popen[bytes]) -> None:
    other = owner_of(sleeper)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert other.alive() is False
    sleeper.wait()
    assert other.alive() is False


def test_a_process_with_the_number_of_one_that_ended_is_another() -> None:
    mine = Owner.here()
    assert mine.model_copy(update={"started": "1"}).alive() is False


@pytest.mark.parametrize("changed", [{"host": "elsewhere"}, {"machine": "before it was started again"}])
def test_of_another_machine_nothing_is_known(changed: dict[str, str]) -> None:
    assert Owner.here().model_copy(update=changed).alive() is None


def test_a_process_that_hides_when_it_began_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.runtime.processes._started", lambda pid: None)
    assert Owner.here().model_copy(update={"started": "1"}).alive() is True


def test_a_mark_in_a_name_says_whether_its_process_lives(sleeper: subprocess.Popen[bytes]) -> None:
    assert re.fullmatch(processes.MARK, processes.mark())
    assert processes.is_alive(processes.mark()) is True
    machine, _, started = processes.mark().split("-")
    assert processes.is_alive(f"{machine}-{sleeper.pid:x}-{started}") is False, "another process has the number now"
    sleeper.kill()
    sleeper.wait()
    assert processes.is_alive(f"{machine}-{sleeper.pid:x}-{started}") is False
    assert processes.is_alive(f"000000-{os.getpid():x}-{started}") is None, "of another machine"
