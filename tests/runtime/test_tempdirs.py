from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from syncclip.runtime.processes import mark
from syncclip.runtime.tempdirs import private_tempdir, sweep_scratch, temporary_files_in, temporary_folder

HELD = """
import sys
from syncclip.runtime.tempdirs import private_tempdir
with private_tempdir(sys.argv[1]) as folder:
    (folder / "file").write_text("held")
    print(folder, flush=True)
    sys.stdin.readline()
"""


def test_a_scratch_folder_is_private_and_removed_with_all_in_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space"), private_tempdir(str(tmp_path)) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "deep").mkdir()
        raise OSError("no space")
    assert list(tmp_path.iterdir()) == []


def test_processes_that_are_kept_apart_put_temporary_files_there_and_know_the_machines_place(tmp_path: Path) -> None:
    code = "from syncclip.runtime import tempdirs as t; print(t.tempfile.gettempdir(), t.temporary_folder())"
    before = dict(os.environ)
    with temporary_files_in(tmp_path):
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert said == [str(tmp_path), str(temporary_folder())]
    assert dict(os.environ) == before


def test_what_a_killed_process_left_is_swept_by_the_next_and_what_lives_is_not(tmp_path: Path) -> None:
    """Whatever the clock says: the folder of the living is older than any limit of age."""
    start = [sys.executable, "-c", HELD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(start, **pipes) as alive, subprocess.Popen(start, **pipes) as killed:  # type: ignore[call-overload]
        held, left = (Path(process.stdout.readline().strip()) for process in (alive, killed))
        os.utime(held, (0, 0))
        killed.kill()
        killed.wait()
        assert (left / "file").read_text() == "held"
        with private_tempdir(str(tmp_path)) as mine:
            assert {held, mine} == set(tmp_path.iterdir())
        alive.communicate("end")
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_outlives_its_killed_command_ends_with_the_folder_and_others_do_not(tmp_path: Path) -> None:
    code = "from syncclip.runtime.processes import mark; print(mark())"
    gone = subprocess.run([sys.executable, "-c", code], stdout=-1)
    folder = tmp_path / f"syncclip-{gone.stdout.decode().strip()}-0"
    folder.mkdir()
    daemon = tmp_path / "raylet"
    shutil.copy(shutil.which("sleep") or "", daemon)
    with (folder / "log").open("w") as inside, (tmp_path / "log").open("w") as outside:
        logs = (inside, outside)
        left, other = (subprocess.Popen([daemon, "600"], stdout=log) for log in logs)
        reader = subprocess.Popen(["sleep", "600"], stdin=(folder / "log").open(), stdout=outside)
    sweep_scratch(tmp_path)
    assert left.wait() == -signal.SIGKILL
    assert (other.poll(), reader.poll(), folder.exists()) == (None, None, False)
    for process in (other, reader):
        process.kill()
        process.wait()


def test_others_folders_files_and_links_are_never_swept(tmp_path: Path) -> None:
    code = "from syncclip.runtime.processes import mark; print(mark())"
    dead = subprocess.run([sys.executable, "-c", code], stdout=-1)
    gone = dead.stdout.decode().strip()
    elsewhere = f"000000-{mark().partition('-')[2]}"
    (tmp_path / "precious").mkdir()
    (tmp_path / f"syncclip-{gone}-0").symlink_to(tmp_path / "precious")
    (tmp_path / f"syncclip-{gone}-1").write_text("a file")
    (tmp_path / f"syncclip-{elsewhere}-0").mkdir()
    (tmp_path / "syncclip-0-shards").mkdir()
    before = set(tmp_path.iterdir())
    sweep_scratch(tmp_path)
    assert set(tmp_path.iterdir()) == before
    (tmp_path / f"syncclip-{gone}-2").mkdir()
    sweep_scratch(tmp_path)
    assert set(tmp_path.iterdir()) == before


def test_a_name_that_another_has_taken_is_left_to_them(tmp_path: Path) -> None:
    taken = tmp_path / f"syncclip-{mark()}-0"
    taken.symlink_to("/etc")
    with private_tempdir(str(tmp_path)) as folder:
        assert folder.name == f"syncclip-{mark()}-1"
    assert taken.is_symlink()
