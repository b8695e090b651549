"""A full disk is a one-line error, and keeps committed shards."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.shards.markers import committed
from tests.shards.sets import verify

pytestmark = pytest.mark.fault

WRITER = """
import sys
from syncclip import storage
from syncclip.core.settings import UserError
from tests.shards.sets import sample
from syncclip.shards.writer import write_shard
try:
    for shard in range(1000):
        write_shard(sys.argv[1], shard, [sample(shard * 30 + i, 3) for i in range(30)])
except UserError as error:
    print(error)
"""
LIMITED = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"


def committed_shards(folder: Path) -> int:
    """Return the number of committed shards; all files must be complete, and only the next shard has no marker."""
    shards = committed(str(folder))
    assert verify(str(folder)) == []
    uncommitted = {path.name for path in folder.iterdir()} - {
        name for shard in shards for name in (f"{shard:05d}.tar", f"{shard:05d}.parquet", f"{shard:05d}_stats.json")
    }
    assert uncommitted <= {f"{len(shards):05d}.tar", f"{len(shards):05d}.parquet"}
    assert all((folder / name).read_bytes()[-4:] in (b"\0\0\0\0", b"PAR1") for name in uncommitted)
    return len(shards)


def test_a_full_file_system_is_a_one_line_error_and_keeps_committed_shards(small_disk: Path) -> None:
    folder = small_disk / "set"
    done = subprocess.run([sys.executable, "-c", WRITER, str(folder)], capture_output=True, text=True)
    assert "no space left" in done.stdout, done.stderr
    assert 0 < committed_shards(folder) < 20


def test_a_file_size_limit_is_a_one_line_error(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    program = textwrap.dedent(LIMITED + WRITER.replace("range(30)", "range(5 + 8 * shard)"))
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert "the file would exceed the size limit" in done.stdout, done.stderr
    assert 0 < committed_shards(folder) < 10


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_all_errors_of_missing_space_have_the_same_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    storage.write_bytes(str(tmp_path / "x"), b"old")

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="choose a different location or free up some space"):
        storage.write_bytes(str(tmp_path / "x"), b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]
