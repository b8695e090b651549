from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from syncclip.settings import UserError
from syncclip.training.driver import train_on_ray
from syncclip.training.loop import run
from syncclip.training.runs import RunRecord
from tests.training import fakes

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def train(folder: Path, workers: int = 1, **spec: Any) -> RunRecord:
    changes = {"workers": workers, **spec.pop("settings", {})}
    whole = {"url": str(folder), "settings": changes, **spec}
    return train_on_ray(fakes.build, whole, fakes.folder(folder), fakes.settings(**changes))


@pytest.mark.usefixtures("ray_cluster")
def test_one_worker_of_ray_gives_the_bits_of_the_plain_loop(tmp_path: Path) -> None:
    run(fakes.job(tmp_path / "plain"))
    assert train(tmp_path / "ray").status == "finished"
    assert fakes.bits(tmp_path / "ray") == fakes.bits(tmp_path / "plain")


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """An unbroken run of two workers, without noise, since each would draw its own."""
    folder = tmp_path_factory.mktemp("two") / "run"
    assert train(folder, workers=2, noise=0.0).workers == 2
    return folder


def test_two_workers_give_the_curve_of_one(tmp_path: Path, two_workers: Path) -> None:
    run(fakes.job(tmp_path, noise=0.0))
    one, two = (safetensors.torch.load_file(folder / "prompts.safetensors") for folder in (tmp_path, two_workers))
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-6)
    curves = [
        [json.loads(line)["total"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path, two_workers)
    ]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


@pytest.mark.fault
def test_a_worker_killed_in_mid_training_changes_no_bit(tmp_path: Path, two_workers: Path) -> None:
    record = train(tmp_path / "broken", workers=2, noise=0.0, kill_once_at=10, kill_rank=1)
    assert (tmp_path / "broken.killed").exists()
    assert record.notes == ["run 'fake' goes on after step 9 of 20"]
    assert fakes.bits(tmp_path / "broken") == fakes.bits(two_workers)


def test_a_finished_run_starts_no_worker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(fakes.job(tmp_path))
    assert train_on_ray(_never, {}, fakes.folder(tmp_path), fakes.settings()).status == "finished"
    assert "is finished" in capsys.readouterr().err


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_cpus_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"workers is 6, but the cluster has 4 CPUs .* use at most 4 workers"):
        train_on_ray(_never, {}, fakes.folder(tmp_path), fakes.settings(workers=6))


def test_a_changed_recipe_is_refused_before_ray_starts(tmp_path: Path) -> None:
    run(fakes.job(tmp_path))
    with pytest.raises(UserError, match="of recipe aaaaaaaaaaaa, but this is run 'fake' of recipe bbbbbbbbbbbb"):
        train_on_ray(_never, {}, fakes.folder(tmp_path, "b" * 64), fakes.settings())


@pytest.mark.usefixtures("ray_cluster")
def test_a_diverged_run_is_told_in_one_sentence_and_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step 8 \(epoch 2\): loss 'decay' is nan"):
        train(tmp_path, workers=2, poisoned_step=8)
    assert RunRecord.model_validate_json((tmp_path / "run.json").read_text()).notes == []


@pytest.mark.usefixtures("ray_cluster")
def test_a_users_mistake_on_a_worker_comes_back_as_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such thing"):
        train_on_ray(_mistaken, {}, fakes.folder(tmp_path), fakes.settings())


def _never(*_: Any) -> Any:
    raise AssertionError("nothing is to be built")


def _mistaken(*_: Any) -> Any:
    raise UserError("no such thing as a free set; make one")
