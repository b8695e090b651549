"""Two real processes of torch.distributed (gloo), as Ray Train would start them, without Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import Parameter

from syncclip.methods.promptsrc import PromptSrc
from syncclip.settings import UserError
from syncclip.training import ranks
from syncclip.training.loop import DivergedError, TrainJob, run
from tests.training import fakes, worlds


def _average(rank: int, _: Path) -> None:
    both, one, none = (Parameter(torch.zeros(2)) for _ in range(3))
    both.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    if rank == 1:
        one.grad = torch.tensor([4.0, 0.0])
    losses, wished = ranks.average([both, one, none], {"total": torch.tensor(3.0 + rank)}, 2, wish=rank == 1)
    assert both.grad.tolist() == [1.5, 3.0]
    assert one.grad is not None and one.grad.tolist() == [2.0, 0.0]
    assert none.grad is None
    assert losses == {"total": 3.5} and wished


def _mistake_of_the_first(rank: int, _: Path) -> None:
    def compute() -> int:
        raise UserError("the folder is another run's")

    with pytest.raises(ranks.SharedError, match="another run's"):
        ranks.from_first(rank, 2, compute)
    assert ranks.from_first(rank, 2, lambda: rank + 7) == 7


def _mistake_of_the_second(rank: int, _: Path) -> None:
    with pytest.raises(ranks.SharedError, match="rank 1 has no set"):
        ranks.raise_first(UserError("rank 1 has no set") if rank else None, 2)


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


BODIES = (_average, _mistake_of_the_first, _mistake_of_the_second, _diverge, _train, _aggregate)


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


def test_two_ranks_end_with_the_same_average(ranks_done: Path) -> None:
    first, second = (safetensors.torch.load_file(ranks_done / f"aggregated.{rank}") for rank in (0, 1))
    saved = safetensors.torch.load_file(ranks_done / "aggregated" / "prompts.safetensors")
    assert first.keys() == second.keys() == saved.keys()
    assert all(torch.equal(first[name], second[name]) and torch.equal(first[name], saved[name]) for name in first)


def test_a_mistake_of_a_lone_rank_is_raised_as_it_is() -> None:
    with pytest.raises(UserError, match="mine"):
        ranks.raise_first(UserError("mine"), 1)
    ranks.raise_first(None, 1)
