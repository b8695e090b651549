"""Two ranks of torch.distributed (gloo), without Ray."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import Parameter

from syncclip.core.settings import UserError
from syncclip.methods.promptsrc import PromptSrc
from syncclip.runtime import shutdown
from syncclip.shards.images import Corruption
from syncclip.training import distributed, loop
from syncclip.training.distributed import SharedError
from syncclip.training.loop import DivergedError, StoppedError, TrainJob, run
from tests.training import fakes, worlds
from tests.training.processes import run_ranks

pytestmark = pytest.mark.slow


def _average(rank: int, _: Path) -> None:
    both, second, neither = (Parameter(torch.zeros(2)) for _ in range(3))
    both.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    if rank == 1:
        second.grad = torch.tensor([4.0, 0.0])
    losses, flag = distributed.average([both, second, neither], {"total": torch.tensor(3.0 + rank)}, 2, rank == 1)
    assert both.grad.tolist() == [1.5, 3.0]
    assert second.grad is not None and second.grad.tolist() == [2.0, 0.0]
    assert neither.grad is None
    assert losses == {"total": 3.5} and flag


def _user_error(rank: int, _: Path) -> None:
    def compute() -> int:
        raise UserError("on rank 0")

    with pytest.raises(SharedError, match="on rank 0"):
        distributed.from_first(rank, 2, compute)
    assert distributed.from_first(rank, 2, lambda: rank + 7) == 7
    with pytest.raises(SharedError, match="on rank 1"), distributed.agreed(2):
        if rank == 1:
            raise UserError("on rank 1")


def _train(rank: int, folder: Path) -> None:
    job = fakes.job(folder / "two", rank, 2, noise=0.0)
    if rank:  # only the initial values of rank 0 count
        torch.nn.init.zeros_(job.method.weight)
    run(job, rank, 2)


def _diverge(rank: int, folder: Path) -> None:
    job = fakes.job(folder / "diverged", rank, 2)
    job.method.poisoned_step = 4 if rank else None
    with pytest.raises(DivergedError, match="step 4"):
        run(job, rank, 2)


def _aggregate(rank: int, folder: Path) -> None:
    """A run of one worker resumes with two; the second one has neither prompts nor average yet."""

    def job(rank: int, world_size: int) -> TrainJob:
        own = PromptSrc.Settings(templates=("a {}.",), aggregation_mean=1.0)
        return worlds.job(folder / "world", folder / "aggregated", "promptsrc", rank, world_size, own=own)

    if rank == 0:
        worlds.make(folder / "world")
        fakes.crash_at(job(0, 1), 5)
    dist.barrier()
    resumed = job(rank, 2)
    run(resumed, rank, 2)
    safetensors.torch.save_file(resumed.method.state_dict(), folder / f"aggregated.{rank}")


RESTARTS = {"one": (1, 1), "two": (2, 2), "one, then two": (1, 2), "two, then one": (2, 1)}
"""Number of workers before and after a crash in the sixth of nine steps."""


def _restart(rank: int, folder: Path) -> None:
    """SYNC-CLIP, whose alignment compares the whole batch, resumes with the same or another number of workers."""

    def crash(*_: object) -> dict[str, Tensor]:
        raise fakes.Crash

    for name, sizes in RESTARTS.items():
        for start, workers in enumerate(sizes):
            if rank < workers:
                job = worlds.job(folder / "world", folder / "restarts" / name, "syncclip", rank, workers)
                if start == 0:
                    losses = [job.method.loss] * 5 + [crash]
                    job.method.loss = lambda batch, losses=losses: losses.pop(0)(batch)
                with contextlib.suppress(fakes.Crash):
                    run(job, rank, workers)
            dist.barrier()


def _full_disk(rank: int, folder: Path) -> None:
    """Rank 0 can't write a checkpoint."""

    def full(*_: object) -> None:
        raise UserError("no space left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syncclip.training.checkpoints.write", full)
        with pytest.raises(SharedError, match="no space left"):
            run(fakes.job(folder / "full", rank, 2), rank, 2)


def _full_disk_for_metrics(rank: int, folder: Path) -> None:
    """Rank 0 can't write a line of metrics: both stop at the checkpoint that it requests, and resume."""

    def job() -> TrainJob:
        return fakes.job(folder / "no space", rank, 2, noise=0.0, checkpoint_every=1000, trackers=[])

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    with pytest.raises(SharedError, match=r"metrics.jsonl: the file would exceed"):
        run(job(), rank, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run(job(), rank, 2)


def _checkpoint_minutes(rank: int, folder: Path) -> None:
    """The clock of rank 0 decides when a checkpoint is due."""
    minutes = 1e-9 if rank == 0 else 1e9
    run(fakes.job(folder / "timed", rank, 2, checkpoint_every=1000, checkpoint_minutes=minutes), rank, 2)


def _interrupt(rank: int, folder: Path) -> None:
    """One rank is interrupted: all stop at the same step and resume together."""
    job = fakes.job(folder / "stopped", rank, 2, noise=0.0, checkpoint_every=1000)
    if rank == 1:
        fakes.before_call(job, 4, shutdown.request)
    with pytest.raises(StoppedError, match="interrupted after step 5 of"):
        run(job, rank, 2)
    shutdown.withdraw()
    for name in ("stopped", "uninterrupted"):
        run(fakes.job(folder / name, rank, 2, noise=0.0, checkpoint_every=1000), rank, 2)


def _preempt(rank: int, folder: Path) -> None:
    """The machine of one rank receives a preemption notice: all stop at the same step, and no step is repeated."""
    first, second = (fakes.job(folder / "preempted", rank, 2, noise=0.0, checkpoint_every=1000) for _ in range(2))
    checks = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError, match="interrupted after step 5 of"):
        patch.setattr(loop, "NOTICE_SECONDS", 0.0)
        run(first, rank, 2, preempted=lambda: next(checks) == 5 and rank == 1)
    run(second, rank, 2)
    assert (first.method.calls, second.method.calls) == (5, 15)


def _unreadable_images(rank: int, folder: Path) -> None:
    """Each rank has an unreadable image of its own; the limit applies to their sum."""

    def job(name: str, limit: int) -> TrainJob:
        made = fakes.job(folder / name, rank, 2, noise=0.0)
        made.stream.corruption = Corruption(limit)
        made.stream.corruption.skip(f"{rank}.jpg", "it is truncated")
        return made

    run(job("two unreadable", limit=2), rank, 2)
    with pytest.raises(SharedError, match="2 unreadable images, more than the limit of 1"):
        run(job("too many unreadable", limit=1), rank, 2)


CASES = (
    _average,
    _user_error,
    _diverge,
    _train,
    _aggregate,
    _restart,
    _full_disk,
    _unreadable_images,
    _full_disk_for_metrics,
    _checkpoint_minutes,
    _interrupt,
    _preempt,
)


def _run_all(rank: int, _: int, folder: Path) -> None:
    for case in CASES:
        case(rank, folder)
        (folder / f"{case.__name__}.{rank}").touch()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a file for every case that each of two ranks completed, in order."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "error").touch()
    try:
        run_ranks(_run_all, 2, folder)
    except mp.ProcessRaisedException as error:
        (folder / "error").write_text(str(error))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_agree(ranks: Path, case: Callable[[int, Path], None]) -> None:
    done = [(ranks / f"{case.__name__}.{rank}").exists() for rank in (0, 1)]
    assert done == [True, True], (ranks / "error").read_text()


def test_two_ranks_learn_the_prompts_of_one(tmp_path: Path, ranks: Path) -> None:
    run(fakes.job(tmp_path, noise=0.0))
    one, two = (safetensors.torch.load_file(folder / "prompts.safetensors") for folder in (tmp_path, ranks / "two"))
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("run_name", "reference"), [("no space", "two"), ("stopped", "uninterrupted"), ("preempted", "uninterrupted")]
)
def test_stopped_ranks_resume_to_the_bits_of_an_uninterrupted_run(ranks: Path, run_name: str, reference: str) -> None:
    assert fakes.bits(ranks / run_name) == fakes.bits(ranks / reference)


def test_record_lists_unreadable_images_of_all_ranks(ranks: Path) -> None:
    assert json.loads((ranks / "two unreadable" / "run.json").read_text())["notes"] == [
        "replaced 2 unreadable images with other images of the same class: 0.jpg, 1.jpg"
    ]
    assert not list((ranks / "too many unreadable" / "checkpoints").glob("*"))


def test_two_ranks_have_the_same_average(ranks: Path) -> None:
    first, second = (safetensors.torch.load_file(ranks / f"aggregated.{rank}") for rank in (0, 1))
    saved = safetensors.torch.load_file(ranks / "aggregated" / "prompts.safetensors")
    assert first.keys() == second.keys() == saved.keys()
    assert all(torch.equal(first[name], second[name]) and torch.equal(first[name], saved[name]) for name in first)


@pytest.mark.parametrize("name", RESTARTS)
def test_curve_does_not_depend_on_the_number_of_workers(ranks: Path, name: str) -> None:
    def values(restart: str) -> list[float]:
        lines = (ranks / "restarts" / restart / "metrics.jsonl").read_text().splitlines()
        return [value for line in map(json.loads, lines) for value in line.values()]

    assert values(name) == pytest.approx(values("one"), rel=1e-5, abs=1e-5)
    record = json.loads((ranks / "restarts" / name / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["notes"][0] == "run 'fake' resumes after step 4 of 9"
    before, after = RESTARTS[name]
    assert (f"the run resumes with {after}; the last bits of the results may differ" in str(record["notes"])) == (
        before != after
    )


def test_batches_do_not_depend_on_the_number_of_ranks(ranks: Path) -> None:
    streams = [
        worlds.job(ranks / "world", ranks / "unused", "syncclip", rank, world_size).stream
        for rank, world_size in ((0, 1), (1, 2), (3, 4))
    ]
    for epoch, step in ((0, 0), (0, 2), (2, 1)):
        first, *others = (
            [rows.tolist() for rows in vars(stream.order.ids(epoch, step)).values()] for stream in streams
        )
        assert others == [first, first]


def test_timed_checkpoints_follow_the_clock_of_rank_0(ranks: Path) -> None:
    names = sorted(path.name for path in (ranks / "timed" / "checkpoints").glob("*.json"))
    assert names == ["step-00000018.json", "step-00000019.json"]


def test_single_rank_raises_its_error_unchanged() -> None:
    with pytest.raises(UserError, match="original") as raised, distributed.agreed(1):
        raise UserError("original")
    assert type(raised.value) is UserError
