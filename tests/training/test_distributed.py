"""Two real processes of torch.distributed (gloo), as Ray Train would start them, without Ray."""

from __future__ import annotations

import contextlib
import json
import os
import resource
from collections.abc import Callable
from dataclasses import replace
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
from syncclip.training import distributed
from syncclip.training.loop import DivergedError, StoppedError, TrainJob, run
from tests.training import fakes, worlds

pytestmark = pytest.mark.slow


def _average(rank: int, _: Path) -> None:
    both, one, none = (Parameter(torch.zeros(2)) for _ in range(3))
    both.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    if rank == 1:
        one.grad = torch.tensor([4.0, 0.0])
    losses, wished = distributed.average([both, one, none], {"total": torch.tensor(3.0 + rank)}, 2, flag=rank == 1)
    assert both.grad.tolist() == [1.5, 3.0]
    assert one.grad is not None and one.grad.tolist() == [2.0, 0.0]
    assert none.grad is None
    assert losses == {"total": 3.5} and wished


def _mistake_of_the_first(rank: int, _: Path) -> None:
    def compute() -> int:
        raise UserError("the folder is another run's")

    with pytest.raises(distributed.SharedError, match="another run's"):
        distributed.from_first(rank, 2, compute)
    assert distributed.from_first(rank, 2, lambda: rank + 7) == 7


def _mistake_of_the_second(rank: int, _: Path) -> None:
    with pytest.raises(distributed.SharedError, match="rank 1 has no set"), distributed.agreed(2):
        if rank:
            raise UserError("rank 1 has no set")


def _train(rank: int, folder: Path) -> None:
    job = fakes.job(folder / "two", rank, 2, noise=0.0)
    if rank:  # a builder that seeds nothing: rank 0's start is what counts
        torch.nn.init.zeros_(job.method.weight)
    run(job, rank, 2)


def _diverge(rank: int, folder: Path) -> None:
    job = fakes.job(folder / "diverged", rank, 2)
    job.method.poisoned_step = 4 if rank else None
    with pytest.raises(DivergedError, match="step 4"):
        run(job, rank, 2)


def _aggregate(rank: int, folder: Path) -> None:
    """A training that one worker began goes on with two: the second one has neither prompts nor average yet."""

    def job(rank: int, world_size: int) -> TrainJob:
        own = PromptSrc.Settings(templates=("a {}.",), aggregation_mean=1.0)
        return worlds.job(folder / "world", folder / "aggregated", "promptsrc", rank, world_size, own=own)

    def stop(done: int, *_: object) -> None:
        if done == 5:
            raise InterruptedError

    if rank == 0:
        worlds.make(folder / "world")
        with pytest.raises(InterruptedError):
            run(job(0, 1), listener=stop)
    dist.barrier()
    resumed = job(rank, 2)
    run(resumed, rank, 2)
    safetensors.torch.save_file(resumed.method.state_dict(), folder / f"aggregated.{rank}")


RESTARTS = {"one": (1, 1), "two": (2, 2), "one, then two": (1, 2), "two, then one": (2, 1)}
"""Workers before and after a stop in the sixth of nine steps."""


def _restart(rank: int, folder: Path) -> None:
    """SYNC-CLIP, whose alignment looks across the whole batch, goes on with as many workers or with others."""

    def stop(*_: object) -> dict[str, Tensor]:
        raise InterruptedError

    for name, both in RESTARTS.items():
        for start, workers in enumerate(both):
            if rank < workers:
                job = worlds.job(folder / "world", folder / "restarts" / name, "syncclip", rank, workers)
                if start == 0:
                    losses = [job.method.loss] * 5 + [stop]
                    job.method.loss = lambda batch, losses=losses: losses.pop(0)(batch)
                with contextlib.suppress(InterruptedError):
                    run(job, rank, workers)
            dist.barrier()


def _full(rank: int, folder: Path) -> None:
    """No space for the first rank's checkpoints."""

    def full(*_: object) -> None:
        raise UserError("cannot write there: no space left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syncclip.training.checkpoints.write", full)
        with pytest.raises(distributed.SharedError, match="no space left"):
            run(fakes.job(folder / "full", rank, 2), rank, 2)


def _no_room(rank: int, folder: Path) -> None:
    """No room for a line of the first rank's metrics: both stop at the checkpoint it asks for, and with room go on."""

    def job() -> TrainJob:
        return fakes.job(folder / "no room", rank, 2, noise=0.0, checkpoint_every=1000, trackers=[])

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
    with pytest.raises(distributed.SharedError, match=r"metrics.jsonl: the file grows larger than is allowed there"):
        run(job(), rank, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run(job(), rank, 2)


def _wait(rank: int, folder: Path) -> None:
    """The first rank's clock alone decides when a checkpoint is due, and all ranks are told."""
    job = fakes.job(folder / "waited", rank, 2, checkpoint_every=1000, checkpoint_minutes=1e-9 if rank == 0 else 1e9)
    run(job, rank, 2)


def _stop(rank: int, folder: Path) -> None:
    """One rank alone is told that its machine goes away; all of them stop at the same step and go on together."""

    class Asking(fakes.FakeMethod):
        def loss(self, batch: fakes.FakeBatch) -> dict[str, torch.Tensor]:
            if rank == 1 and self.calls == 4:
                shutdown.request()
            return super().loss(batch)

    job = fakes.job(folder / "stopped", rank, 2, noise=0.0, checkpoint_every=1000)
    torch.manual_seed(job.settings.seed)
    with pytest.raises(StoppedError, match="interrupted after step 5 of"):
        run(replace(job, method=Asking(0.0)), rank, 2)
    shutdown.withdraw()
    run(fakes.job(folder / "stopped", rank, 2, noise=0.0, checkpoint_every=1000), rank, 2)
    run(fakes.job(folder / "unbroken", rank, 2, noise=0.0, checkpoint_every=1000), rank, 2)


def _damaged(rank: int, folder: Path) -> None:
    """Each rank meets a damaged image of its own: what a recipe allows, it allows to all of them together."""

    def job(name: str, limit: int) -> TrainJob:
        made = fakes.job(folder / name, rank, 2, noise=0.0)
        made.stream.corruption = Corruption(limit)
        made.stream.corruption.skip(f"{rank}.jpg", "it is cut off")
        return made

    run(job("two damaged", limit=2), rank, 2)
    with pytest.raises(
        distributed.SharedError, match="2 unreadable images, more than the limit of 1; the last one: it is cut"
    ):
        run(job("too many damaged", limit=1), rank, 2)


BODIES = (
    _average,
    _mistake_of_the_first,
    _mistake_of_the_second,
    _diverge,
    _train,
    _aggregate,
    _restart,
    _full,
    _damaged,
    _no_room,
    _wait,
    _stop,
)


def _all(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2)
    for body in BODIES:
        body(rank, folder)
        (folder / f"{body.__name__}.{rank}").touch()
    dist.destroy_process_group()
    # On a busy machine gloo's threads may outlive the interpreter, which aborts the process: leave without waiting.
    os._exit(0)


@pytest.fixture(scope="module")
def ranks_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which each of two processes has left a file for every body that it got through, in order."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "error").touch()
    try:
        mp.spawn(_all, args=(folder,), nprocs=2)
    except mp.ProcessRaisedException as error:
        (folder / "error").write_text(str(error))
    return folder


@pytest.mark.parametrize("body", BODIES)
def test_two_ranks_agree(ranks_done: Path, body: Callable[[int, Path], None]) -> None:
    done = [(ranks_done / f"{body.__name__}.{rank}").exists() for rank in (0, 1)]
    assert done == [True, True], (ranks_done / "error").read_text()


def test_two_ranks_train_as_one_does(tmp_path: Path, ranks_done: Path) -> None:
    run(fakes.job(tmp_path, noise=0.0))
    one, two = (
        safetensors.torch.load_file(folder / "prompts.safetensors") for folder in (tmp_path, ranks_done / "two")
    )
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)


def test_two_ranks_that_found_no_room_end_with_the_bits_of_an_unbroken_run(ranks_done: Path) -> None:
    assert fakes.bits(ranks_done / "no room") == fakes.bits(ranks_done / "two")


def test_what_any_rank_could_not_read_is_named_in_the_record(ranks_done: Path) -> None:
    assert json.loads((ranks_done / "two damaged" / "run.json").read_text())["notes"] == [
        "2 unreadable image(s) were replaced by others of their class: 0.jpg, 1.jpg"
    ]
    assert not list((ranks_done / "too many damaged" / "checkpoints").glob("*"))


def test_two_ranks_end_with_the_same_average(ranks_done: Path) -> None:
    first, second = (safetensors.torch.load_file(ranks_done / f"aggregated.{rank}") for rank in (0, 1))
    saved = safetensors.torch.load_file(ranks_done / "aggregated" / "prompts.safetensors")
    assert first.keys() == second.keys() == saved.keys()
    assert all(torch.equal(first[name], second[name]) and torch.equal(first[name], saved[name]) for name in first)


@pytest.mark.parametrize("name", RESTARTS)
def test_a_run_has_the_curve_of_one_worker_however_many_go_on_with_it(ranks_done: Path, name: str) -> None:
    def losses(of: str) -> list[float]:
        lines = (ranks_done / "restarts" / of / "metrics.jsonl").read_text().splitlines()
        return [value for line in map(json.loads, lines) for value in line.values()]

    assert losses(name) == pytest.approx(losses("one"), rel=1e-5, abs=1e-5)  # rtol as for the prompts
    record = json.loads((ranks_done / "restarts" / name / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["notes"][0] == "run 'fake' resumes after step 4 of 9"
    before, after = RESTARTS[name]
    assert (f"the run resumes with {after}: the last bits may differ" in str(record["notes"])) == (before != after)


def test_ranks_get_the_same_batches_however_many_they_are(ranks_done: Path) -> None:
    streams = [
        worlds.job(ranks_done / "world", ranks_done / "none", "syncclip", r, n).stream
        for r, n in ((0, 1), (1, 2), (3, 4))
    ]
    for epoch, step in ((0, 0), (0, 2), (2, 1)):
        first, *others = ([rows.tolist() for rows in vars(stream.ids(epoch, step)).values()] for stream in streams)
        assert others == [first, first]


def test_checkpoints_by_time_are_those_of_the_first_ranks_clock(ranks_done: Path) -> None:
    names = sorted(path.name for path in (ranks_done / "waited" / "checkpoints").glob("*.json"))
    assert names == ["step-00000018.json", "step-00000019.json"]


def test_what_one_rank_is_told_all_ranks_heed_and_go_on_to_the_same_bits(ranks_done: Path) -> None:
    assert fakes.bits(ranks_done / "stopped") == fakes.bits(ranks_done / "unbroken")


def test_a_mistake_of_a_lone_rank_is_raised_as_it_is() -> None:
    with pytest.raises(UserError, match="mine") as raised, distributed.agreed(1):
        raise UserError("mine")
    assert type(raised.value) is UserError
    with distributed.agreed(1):
        pass
