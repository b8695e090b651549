"""Killed at any moment, the same command again ends with the bytes of an unbroken one."""

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
def steps_are_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunRecorder.log

    def logged(*given: object) -> None:
        kills.moment()
        log(*given)  # type: ignore[arg-type]
        kills.moment()

    monkeypatch.setattr(RunRecorder, "log", logged)


def train(folder: Path, _: int) -> None:
    """Twenty steps, with a checkpoint after each third."""
    run(fakes.job(folder))


def train_together(folder: Path, rank: int) -> None:
    """The same by two ranks."""
    meeting = f"file://{folder}.meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    job = fakes.job(folder, rank, 2)
    honest = job.method.loss

    def loss(batch: fakes.FakeBatch) -> dict[str, object]:
        kills.moment()
        return honest(batch)

    job.method.loss = loss  # type: ignore[method-assign, assignment]
    run(job, rank, 2)


def draw(folder: Path, _: int) -> None:
    """Six shards of a set."""
    with mock.patch.dict(os.environ, {PACE: "0", LEDGER: os.devnull}):
        plan = light_plan(6, 8)
        plan = write_plan(plan.model_copy(update={"weights": locate(plan.generator).fingerprint}), str(folder))
        make = LightWorker(plan.model_dump_json(), str(folder), "cpu", "icons")
        there = committed(str(folder))
        assert [make({"shard": one})["error"] for one in plan.shards() if one not in there] == [""] * (6 - len(there))


def bits(folder: Path) -> dict[str, object]:
    return {**fakes.bits(folder), "files": files(folder)}


def set_bits(folder: Path) -> dict[str, object]:
    return {**digests(str(folder)), "files": files(folder)}


def files(folder: Path) -> list[str]:
    """The files that stay; others' parts and locks are swept later."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not Path(name).name.startswith((".", "events.")))


def run_bits(folder: Path) -> dict[str, object]:
    found = {name: (folder / name).read_bytes() for name in ("results.json", "predictions.parquet")}
    return {**bits(folder), **found}


LIVES: dict[str, tuple[kills.Life, Callable[[Path], dict[str, object]], int]] = {
    "train": (train, bits, 1),
    "train on two ranks": (train_together, bits, 2),
    "synth": (draw, set_bits, 1),
}


def kill_at_twentieths(
    place: Path, live: kills.Life, look: Callable[[Path], dict[str, object]], ranks: int, step: int
) -> None:
    """Kill each rank of a life at every `step`th twentieth of it, live on, and compare with an unbroken life."""
    whole = place / "whole"
    for rank, count in enumerate(kills.moments(live, whole, ranks)):
        assert count >= 20
        for moment in kills.twentieths(count)[::step]:
            folder = place / f"killed-{rank}-{moment}"
            kills.die(live, folder, moment, rank, ranks)
            Path(f"{folder}.meeting").unlink(missing_ok=True)
            kills.moments(live, folder, ranks)
            assert look(folder) == look(whole), (rank, moment)


@pytest.mark.parametrize("life", LIVES)
def test_a_kill_at_some_moment_of_a_life_costs_no_byte(tmp_path: Path, life: str) -> None:
    kill_at_twentieths(tmp_path, *LIVES[life], step=7)


@pytest.mark.attack
@pytest.mark.parametrize("life", LIVES)
def test_a_kill_at_any_twentieth_of_a_life_costs_no_byte(tmp_path: Path, life: str) -> None:
    kill_at_twentieths(tmp_path, *LIVES[life], step=1)


@pytest.mark.attack
def test_a_run_killed_at_any_twentieth_has_the_results_of_an_unbroken_one(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    recipe = Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}", "training.method=ivlp"])

    def live(folder: Path, _: int) -> None:
        jobs.run_here(recipe, str(folder))

    kill_at_twentieths(tmp_path, live, run_bits, ranks=1, step=1)
