"""No space for what a run writes: one sentence, what is committed stays, and with space the run goes on to its bits."""

from __future__ import annotations

import contextlib
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.training.loop import run
from syncclip.training.run_folder import RunRecord
from tests.training import fakes

pytestmark = [
    pytest.mark.fault,
    # TensorBoard writes in a thread of its own, which tells of its end on stderr too.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

FULL_DISK = """
import resource, sys
import torch
sys.path.insert(0, sys.argv[2])
from tests.training import fakes
from syncclip.core.settings import UserError
from syncclip.training.loop import run
job = fakes.job(sys.argv[1])
job.method.large = torch.nn.Parameter(torch.zeros(10_000))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # room for record and metrics, not for a checkpoint
try:
    run(job)
except UserError as error:
    print(error)
"""


def test_no_space_for_checkpoints_is_told_in_one_sentence(tmp_path: Path) -> None:
    full = [sys.executable, "-c", FULL_DISK, str(tmp_path / "full"), str(Path(__file__).parents[2])]
    told = subprocess.run(full, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"cannot write .*/full/.*: the file grows larger than is allowed there; choose .*\n", told)
    assert list((tmp_path / "full" / "checkpoints").iterdir()) == []


def fill(folder: Path) -> Path:
    """Take all the room that a file system has left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(512)):
            pass
    return filler


@pytest.mark.parametrize(("every", "committed"), [(3, [6, 9]), (1000, [])], ids=["a checkpoint", "metrics"])
def test_a_disk_that_fills_up_stops_a_run_and_with_space_it_goes_on(
    tmp_path: Path, small_disk: Path, every: int, committed: list[int]
) -> None:
    whole, broken = tmp_path / "whole", small_disk / "run"
    changes = {"epochs": 10, "checkpoint_every": every}
    run(fakes.job(whole, **changes))

    def fill_after_eleven(done: int, *_: object) -> None:
        if done == 11:
            fill(small_disk)

    with pytest.raises(
        UserError, match=r"^cannot write .*/run/.*: no space left; choose another location or free some"
    ):
        run(fakes.job(broken, **changes), listener=fill_after_eleven)
    assert [int(path.stem[5:]) for path in sorted((broken / "checkpoints").glob("*.json"))] == committed
    assert not list(broken.rglob("*.part"))
    lines = (broken / "metrics.jsonl").read_bytes()
    assert len(lines.splitlines()) >= 11 and (whole / "metrics.jsonl").read_bytes().startswith(lines)

    (small_disk / "filler").unlink()
    assert run(fakes.job(broken, **changes)).status == "finished"
    assert fakes.bits(broken) == fakes.bits(whole)


def test_a_run_that_finds_no_room_at_its_start_is_told(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(UserError, match=r"^cannot write .*/run.json: no space left; choose another location"):
        run(fakes.job(small_disk))


@contextlib.contextmanager
def file_limit_kept() -> Iterator[int]:
    """What limit of this process's files is set in the block ends with it: pytest may write to files, too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_found_no_room_is_written_with_a_checkpoint_in_the_next_step(tmp_path: Path) -> None:
    run(fakes.job(tmp_path / "whole"))

    def short_of_room_for_line_nine(done: int, *_: object) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600 if done == 8 else hard, hard))

    job = fakes.job(tmp_path / "short", checkpoint_every=1000, trackers=[])
    with file_limit_kept():
        record = run(job, listener=short_of_room_for_line_nine)
    assert (record.status, record.notes) == ("finished", [])
    assert [path.stem for path in (tmp_path / "short" / "checkpoints").glob("*.json")] == ["step-00000010"]
    assert fakes.bits(tmp_path / "short") == fakes.bits(tmp_path / "whole")


def test_events_that_find_no_room_are_told_once_and_change_no_bit(tmp_path: Path) -> None:
    run(fakes.job(tmp_path / "whole", trackers=[]))
    with file_limit_kept() as hard:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # less than all events, more than any other file
        (note,) = run(fakes.job(tmp_path / "short")).notes
    assert note.startswith("tensorboard can't be written to (") and "metrics.jsonl has its numbers" in note
    assert fakes.bits(tmp_path / "short") == fakes.bits(tmp_path / "whole")
    assert RunRecord.model_validate_json((tmp_path / "short" / "run.json").read_text()).notes == [note]
