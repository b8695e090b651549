"""Leftovers of killed writers are swept, and those of living ones are not, whatever this machine's clock says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from syncclip import storage

WRITER = """
import sys
from pathlib import Path
from syncclip.storage.cleanup import part_of
part = part_of(Path(sys.argv[1]))
part.write_bytes(b"half")
print(part, flush=True)
sys.stdin.readline()
"""


def writer(target: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process in the middle of writing a file, and its part."""
    command = [sys.executable, "-c", WRITER, str(target)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.fault
def test_what_a_killed_writer_left_is_hidden_and_swept_when_old(tmp_path: Path) -> None:
    old, new = tmp_path / ".x.1-ab.part", tmp_path / ".y.1-ab.part"
    old.write_bytes(b"half"), new.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert storage.listdir(str(tmp_path)) == []
    assert storage.sweep(str(tmp_path)) == 1
    assert not old.exists()
    assert new.exists()


@pytest.mark.fault
def test_a_part_is_swept_once_its_writer_is_killed_and_never_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, part = writer(tmp_path / "x")
    os.utime(part, (0, 0))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert (storage.listdir(str(tmp_path)), storage.sweep(str(tmp_path))) == ([], 0)
    process.kill()
    process.communicate()
    os.utime(part, (4e9, 4e9))
    assert part.exists()
    assert storage.sweep(str(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault
def test_whoever_takes_a_folder_sweeps_it(tmp_path: Path) -> None:
    process, part = writer(tmp_path / "x")
    process.kill()
    process.communicate()
    with storage.lock(str(tmp_path), "train"):
        assert not part.exists()


def test_the_part_of_another_machine_is_old_by_the_clock_of_the_disk_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / ".x.000000-1-000000-00000000.part"
    part.write_bytes(b"half")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert storage.sweep(str(tmp_path)) == 0
    os.utime(part, (0, 0))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert storage.sweep(str(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []
