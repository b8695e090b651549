"""A full disk is reported in one line, committed files stay intact, and the run resumes to the same bits."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from syncclip.core.settings import UserError
from syncclip.training.loop import run
from syncclip.training.run_folder import RunRecord
from tests.training import fakes
from tests.training.processes import exit_code

pytestmark = [
    pytest.mark.fault,
    # TensorBoard writes in a thread of its own, whose errors pytest reports, too.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def limit_file_size(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else hard, hard))


@contextlib.contextmanager
def restored_file_size() -> Iterator[None]:
    """Restore the limit of the file size, since pytest writes files, too."""
    try:
        yield
    finally:
        limit_file_size(-1)


def fill(folder: Path) -> Path:
    """Fill the file system of a folder."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(512)):
            pass
    return filler


def train_without_space_for_checkpoints(folder: Path) -> None:
    """Exit with 7 after the expected error."""
    job = fakes.job(folder)
    job.method.large = torch.nn.Parameter(torch.zeros(10_000))
    limit_file_size(20_000)  # enough for record and metrics
    with pytest.raises(UserError, match=r"^cannot write .*/full/.*: the file would exceed the size limit"):
        run(job)
    os._exit(7)


def test_no_space_for_checkpoints(tmp_path: Path) -> None:
    assert exit_code(train_without_space_for_checkpoints, tmp_path / "full") == 7
    assert list((tmp_path / "full" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(("every", "committed"), [(3, [6, 9]), (1000, [])], ids=["checkpoint", "metrics"])
def test_run_stops_on_a_full_disk_and_resumes_with_space(
    tmp_path: Path, small_disk: Path, every: int, committed: list[int]
) -> None:
    reference, folder = tmp_path / "reference", small_disk / "run"
    changes = {"epochs": 10, "checkpoint_every": every}
    run(fakes.job(reference, **changes))

    def fill_in_step_eleven(done: int, *_: object) -> None:
        if done == 11:
            fill(small_disk)

    with pytest.raises(UserError, match=r"^cannot write .*/run/.*: no space left; choose a different location"):
        run(fakes.job(folder, **changes), listener=fill_in_step_eleven)
    assert [int(path.stem[5:]) for path in sorted((folder / "checkpoints").glob("*.json"))] == committed
    assert not list(folder.rglob("*.part"))
    lines = (folder / "metrics.jsonl").read_bytes()
    assert len(lines.splitlines()) >= 11 and (reference / "metrics.jsonl").read_bytes().startswith(lines)

    (small_disk / "filler").unlink()
    assert run(fakes.job(folder, **changes)).status == "finished"
    assert fakes.bits(folder) == fakes.bits(reference)


def test_no_space_at_the_start(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(UserError, match=r"^cannot write .*/run.json: no space left"):
        run(fakes.job(small_disk))


def test_line_without_space_is_written_with_a_checkpoint_in_the_next_step(tmp_path: Path) -> None:
    run(fakes.job(tmp_path / "reference"))
    job = fakes.job(tmp_path / "short", checkpoint_every=1000, trackers=[])
    with restored_file_size():  # no space for the ninth line
        record = run(job, listener=lambda done, *_: limit_file_size(600 if done == 8 else -1))
    assert (record.status, record.notes) == ("finished", [])
    assert [path.stem for path in (tmp_path / "short" / "checkpoints").glob("*.json")] == ["step-00000010"]
    assert fakes.bits(tmp_path / "short") == fakes.bits(tmp_path / "reference")


def test_no_space_for_events_is_reported_once(tmp_path: Path) -> None:
    run(fakes.job(tmp_path / "reference", trackers=[]))
    with restored_file_size():
        limit_file_size(3000)  # less than all events, more than any other file
        (note,) = run(fakes.job(tmp_path / "short")).notes
    assert note.startswith("tensorboard can't be written to (")
    assert fakes.bits(tmp_path / "short") == fakes.bits(tmp_path / "reference")
    assert RunRecord.model_validate_json((tmp_path / "short" / "run.json").read_text()).notes == [note]
