"""Partial files of killed writers are removed, and those of running ones are not, with any local clock."""

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
    """Start a process that is writing a file; return it and its partial file."""
    command = [sys.executable, "-c", WRITER, str(target)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.fault
def test_a_partial_file_is_removed_once_its_writer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_locking_a_folder_removes_partial_files(tmp_path: Path) -> None:
    process, part = writer(tmp_path / "x")
    process.kill()
    process.communicate()
    with storage.lock(str(tmp_path), "train"):
        assert not part.exists()


def test_the_age_of_another_machines_partial_file_is_measured_by_the_disks_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / ".x.000000-1-000000-00000000.part"
    part.write_bytes(b"half")
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert (storage.listdir(str(tmp_path)), storage.sweep(str(tmp_path))) == ([], 0)
    os.utime(part, (0, 0))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert storage.sweep(str(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []
