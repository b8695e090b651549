"""A job that was killed at any event resumes to the bytes of an uninterrupted one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch.distributed as dist

from syncclip import jobs
from syncclip.recipe.recipe import Recipe
from syncclip.shards.markers import committed
from syncclip.synthesis.generators.weights import locate
from syncclip.synthesis.plan import write_plan
from syncclip.training.loop import run
from syncclip.training.recorder import RunRecorder
from tests.attack import kills
from tests.conftest import TinyWorld
from tests.training import fakes
from tests.worlds.chaos import digests
from tests.worlds.light import LEDGER, PACE, LightWorker, light_plan

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.fixture(autouse=True)
def steps_are_events(monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunRecorder.log

    def log_with_events(*arguments: object) -> None:
        kills.event()
        log(*arguments)  # type: ignore[arg-type]
        kills.event()

    monkeypatch.setattr(RunRecorder, "log", log_with_events)


def train(folder: Path, _: int) -> None:
    """Train for twenty steps, with a checkpoint after every third."""
    run(fakes.job(folder))


def train_on_two_ranks(folder: Path, rank: int) -> None:
    """Train on two ranks."""
    meeting = f"file://{folder}.meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    job = fakes.job(folder, rank, 2)
    original = job.method.loss

    def loss(batch: fakes.FakeBatch) -> dict[str, object]:
        kills.event()
        return original(batch)

    job.method.loss = loss  # type: ignore[method-assign, assignment]
    run(job, rank, 2)


def synthesise(folder: Path, _: int) -> None:
    """Generate six shards."""
    with mock.patch.dict(os.environ, {PACE: "0", LEDGER: os.devnull}):
        plan = light_plan(6, 8)
        plan = write_plan(plan.model_copy(update={"weights": locate(plan.generator).fingerprint}), str(folder))
        worker = LightWorker(plan.model_dump_json(), str(folder), "cpu", "icons")
        existing = committed(str(folder))
        for shard in plan.shards():
            assert shard in existing or worker({"shard": shard})["error"] == ""


def bits(folder: Path) -> dict[str, object]:
    return {**fakes.bits(folder), "files": files(folder)}


def set_bits(folder: Path) -> dict[str, object]:
    return {**digests(str(folder)), "files": files(folder)}


def files(folder: Path) -> list[str]:
    """The visible files; partial files and locks of killed processes are removed later."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not Path(name).name.startswith((".", "events.")))


def run_bits(folder: Path) -> dict[str, object]:
    results = {name: (folder / name).read_bytes() for name in ("results.json", "predictions.parquet")}
    return {**bits(folder), **results}


JOBS: dict[str, tuple[kills.Job, Callable[[Path], dict[str, object]], int]] = {
    "train": (train, bits, 1),
    "train on two ranks": (train_on_two_ranks, bits, 2),
    "synth": (synthesise, set_bits, 1),
}


def kill_at_twentieths(
    root: Path, job: kills.Job, content: Callable[[Path], dict[str, object]], ranks: int, step: int
) -> None:
    """Kill each rank at every `step`th twentieth of a job, resume it, and compare with an uninterrupted job."""
    unbroken = root / "unbroken"
    for rank, count in enumerate(kills.count_events(job, unbroken, ranks)):
        assert count >= 20
        for event in kills.twentieths(count)[::step]:
            folder = root / f"killed-{rank}-{event}"
            kills.kill(job, folder, event, rank, ranks)
            Path(f"{folder}.meeting").unlink(missing_ok=True)
            kills.count_events(job, folder, ranks)
            assert content(folder) == content(unbroken), (rank, event)


@pytest.mark.parametrize("name", JOBS)
def test_a_killed_job_resumes_to_the_same_bytes(tmp_path: Path, name: str) -> None:
    kill_at_twentieths(tmp_path, *JOBS[name], step=7)


@pytest.mark.attack
@pytest.mark.parametrize("name", JOBS)
def test_a_job_killed_at_any_twentieth_resumes_to_the_same_bytes(tmp_path: Path, name: str) -> None:
    kill_at_twentieths(tmp_path, *JOBS[name], step=1)


@pytest.mark.attack
def test_a_run_killed_at_any_twentieth_has_the_same_results(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}", "training.method=ivlp"])

    def job(folder: Path, _: int) -> None:
        jobs.run_here(recipe, str(folder))

    kill_at_twentieths(tmp_path, job, run_bits, ranks=1, step=1)
