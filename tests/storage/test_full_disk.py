"""No room left: one sentence, what was committed stays, and nothing half-written is to be seen."""

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

FILLS = """
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


def assert_whole(folder: Path) -> int:
    """Only whole shards are to be seen, and nothing else lies there; how many."""
    there = committed(str(folder))
    assert verify(str(folder)) == []
    extra = {path.name for path in folder.iterdir()} - {
        name for shard in there for name in (f"{shard:05d}.tar", f"{shard:05d}.parquet", f"{shard:05d}_stats.json")
    }
    assert extra <= {f"{len(there):05d}.tar", f"{len(there):05d}.parquet"}  # of the shard that found no room
    assert all((folder / name).read_bytes()[-4:] in (b"\0\0\0\0", b"PAR1") for name in extra)  # each has its end
    return len(there)


def test_a_full_file_system_ends_in_one_sentence_and_keeps_what_was_committed(small_disk: Path) -> None:
    folder = small_disk / "set"
    done = subprocess.run([sys.executable, "-c", FILLS, str(folder)], capture_output=True, text=True)
    assert "no space left; choose another location or free some space" in done.stdout, done.stderr
    assert 0 < assert_whole(folder) < 20


def test_a_file_that_may_not_grow_ends_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    program = textwrap.dedent(LIMITED + FILLS.replace("range(30)", "range(5 + 8 * shard)"))
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True)
    assert "the file grows larger than is allowed there" in done.stdout, done.stderr
    assert 0 < assert_whole(folder) < 10


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_other_ways_of_having_no_room_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="choose another location or free some space"):
        storage.write_bytes(str(tmp_path / "x"), b"new")
    assert list(tmp_path.iterdir()) == []
