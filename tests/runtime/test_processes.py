"""Processes are identified, and their liveness is determined, without clocks."""

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
    """Another process, which sleeps until it is killed."""
    code = "import sys; from syncclip.runtime.processes import Owner; print(Owner.here().model_dump_json(), flush=True)"
    process = subprocess.Popen([sys.executable, "-c", f"{code}; import time; time.sleep(600)"], stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def owner_of(process: subprocess.Popen[bytes]) -> Owner:
    assert process.stdout is not None
    return Owner.model_validate_json(process.stdout.readline())


def test_running_and_stopped_processes_are_alive(sleeper: subprocess.Popen[bytes]) -> None:
    other = owner_of(sleeper)
    assert other.pid == sleeper.pid and other.alive() is True
    sleeper.send_signal(signal.SIGSTOP)
    assert other.alive() is True
    owner = Owner.here()
    assert owner.pid == os.getpid() and owner.alive() is True
    assert str(owner) == f"{owner.user}@{owner.host} (process {os.getpid()})"


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    other = owner_of(sleeper)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert other.alive() is False
    sleeper.wait()
    assert other.alive() is False


@pytest.mark.parametrize(
    ("changed", "alive"), [({"started": "1"}, False), ({"host": "node7"}, None), ({"machine": "before a reboot"}, None)]
)
def test_a_reused_id_is_another_process_and_other_machines_are_unknown(
    changed: dict[str, str], alive: bool | None
) -> None:
    assert Owner.here().model_copy(update=changed).alive() is alive


def test_a_process_with_a_hidden_start_time_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.runtime.processes._started", lambda pid: None)
    assert Owner.here().model_copy(update={"started": "1"}).alive() is True


def test_a_mark_identifies_a_running_process(sleeper: subprocess.Popen[bytes]) -> None:
    assert re.fullmatch(processes.MARK, processes.mark())
    assert processes.is_alive(processes.mark()) is True
    machine, _, started = processes.mark().split("-")
    assert processes.is_alive(f"{machine}-{sleeper.pid:x}-{started}") is False, "the ID was reused"
    sleeper.kill()
    sleeper.wait()
    assert processes.is_alive(f"{machine}-{sleeper.pid:x}-{started}") is False
    assert processes.is_alive(f"000000-{os.getpid():x}-{started}") is None, "another machine"
