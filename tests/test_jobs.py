"""Jobs of the library: synthesis, training and evaluation, and errors of their input."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from syncclip import jobs, storage
from syncclip.cli import render
from syncclip.core.settings import UserError
from syncclip.evaluation.predict import Predictions
from syncclip.methods import METHODS
from syncclip.recipe.recipe import Recipe
from syncclip.runs import build
from syncclip.stream.loader import LostLoaderError
from syncclip.stream.mixed import Batch, MixedStream
from syncclip.synthesis.filters import build_filters
from syncclip.synthesis.plan import Plan, agreed_plan, read_plan, write_plan
from syncclip.synthesis.status import read_status
from syncclip.synthetic_sets import prepare
from syncclip.synthetic_sets.prepare import with_assets
from tests.conftest import TinyWorld
from tests.test_ray_jobs import files
from tests.training import fakes
from tests.worlds.dataset import folder_of_folders
from tests.worlds.literature import ADVERSARIAL, RENDITION, Miniatures


def load(tiny: TinyWorld, synthetic: str | None, *overrides: str) -> Recipe:
    return Recipe.load(tiny.recipe, [*([f"training.synthetic={synthetic}"] if synthetic else []), *overrides])


def test_the_best_checkpoint_is_noted_and_changes_no_bit(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = load(tiny, None, "training.data=real", "training.method=ivlp")
    plain, best = tmp_path / "plain", tmp_path / "best"
    jobs.run_here(recipe, str(plain))
    jobs.run_here(recipe.with_values({"training.keep_best": "validation"}), str(best))
    (note,) = json.loads((best / "run.json").read_text())["notes"]
    assert re.fullmatch(r"the best checkpoint by validation is from step [24] \([0-9.]+\)", note)
    assert (best / "prompts.safetensors").read_bytes() == (plain / "prompts.safetensors").read_bytes()


def test_trainings_on_a_device_agree_in_every_bit(tiny: TinyWorld, tiny_set: str, tmp_path: Path, device: str) -> None:
    recipe = load(tiny, tiny_set, "training.method=syncclip", f"training.device={device}")
    for name in "ab":
        jobs.run_here(recipe, str(tmp_path / name))
    names = ("prompts.safetensors", "metrics.jsonl")
    assert files(tmp_path / "a", *names) == files(tmp_path / "b", *names) != {}
    (tmp_path / "b" / "prompts.safetensors").unlink()  # as after a kill later than the newest checkpoint
    jobs.run_here(recipe, str(tmp_path / "b"))
    assert files(tmp_path / "b", *names) == files(tmp_path / "a", *names)


def test_starting_a_synthesis_does_not_import_torch() -> None:
    code = "import sys, syncclip.jobs, syncclip.synthesis.driver; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_plan_follows_the_recipe(tiny: TinyWorld) -> None:
    plan = prepare.plan(Recipe.load(tiny.recipe, ["synthesis.images_per_class=3"]))
    assert (plan.classes, plan.total, len(plan.shards())) == (6, 18, 3)
    assert plan.entry(7).prompt == "a photo of a green circle."


def test_extending_a_dataset_keeps_its_default_shard_size(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, planned = load(tiny, None, "synthesis.shard_size=null", "synthesis.generator.batch_size=1"), list[Plan]()
    stored = write_plan(prepare.plan(recipe), str(tmp_path))
    monkeypatch.setattr("syncclip.synthesis.plan.DEFAULT_SHARDS", 1)
    recipe = recipe.with_values({"synthesis.images_per_class": 99})
    assert prepare.plan(recipe).shard_size == 99 * 6

    def record(plan: Plan, *_: object, **__: object) -> None:
        planned.append(plan)
        raise UserError("recorded")

    monkeypatch.setattr(jobs, "synthesise_set", record)
    with pytest.raises(UserError, match="recorded"):
        jobs.synth(recipe, str(tmp_path))
    assert [plan.shard_size for plan in planned] == [stored.shard_size] == [66]


def test_parts_of_an_extended_dataset_include_all_its_shards(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extension begins a new shard, so that an extended dataset may have more shards than a new one."""
    recipe = Recipe.load(tiny.recipe, ["synthesis.shard_size=5", "synthesis.images_per_class=1"])
    write_plan(prepare.plan(recipe), str(tmp_path))
    extended, parts = recipe.with_values({"synthesis.images_per_class": 3}), list[range]()
    assert len(prepare.plan(extended).shards()) == 4
    monkeypatch.setattr(jobs, "synthesise_part", lambda plan, url, part, *_, **__: parts.append(part))
    for shards in ("1/2", "2/2", "4:5"):
        assert jobs.synth(extended, str(tmp_path), shards=shards) is None
    assert parts == [range(2), range(2, 5), range(4, 5)]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ray_generates_the_same_shards_as_one_process(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    summary = jobs.synth(Recipe.load(tiny.recipe, ["synthesis.actors=2", "synthesis.quality=true"]), str(tmp_path))
    status = read_status(str(tmp_path))
    assert status is not None and summary.work.rate == status.rate > 0
    assert f"{status.rate:.3g} images/s" in render.summary(summary)
    names = ("*.tar", "*.parquet", "plan.json")
    assert (summary.complete, summary.images, summary.shards) == (True, 12, 2)
    assert files(tmp_path, *names) == files(tiny_set, *names)
    assert Recipe.load(str(tmp_path / "synthesis.yaml")).synthesis.actors == 2
    assert json.loads((tmp_path / "stats.json").read_text())["measured"] == 12


def test_a_set_contains_the_assets_of_its_filters(tiny: TinyWorld, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(24, 1).state_dict(), tmp_path / "head.pth")
    head = f"{{name: clip_head, reason: aesthetic, weights: {tmp_path}/head.pth, minimum: 0}}"
    recipe = Recipe.load(tiny.recipe, [f"synthesis.filters=[{head}, {{name: leakage}}]"])
    url = str(tmp_path / "set")
    plan = with_assets(recipe, prepare.plan(recipe), url)
    checksums = [item.checksum for item in plan.filters if hasattr(item, "checksum")]
    assert sorted(file.stem for file in (tmp_path / "set" / "filters").iterdir()) == sorted(checksums)
    assert [item.name for item in build_filters(plan.filters, plan.classnames, url=url)] == ["aesthetic", "leakage"]
    write_plan(plan, url)
    (tmp_path / "head.pth").unlink()  # a machine that resumes needs only the set
    assert with_assets(recipe, agreed_plan(prepare.plan(recipe), read_plan(url), url), url) == plan


def test_a_guided_set_contains_the_shots_of_its_plan(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = Recipe.load(tiny.recipe, ["synthesis.generator.guide={strength: 0.5}", "dataset.shots=2"])
    plan = with_assets(recipe, prepare.plan(recipe), str(tmp_path))
    assert [len(real) for real in plan.guides] == [2, 2, 2, 0, 0, 0]
    assert len(list((tmp_path / "guides").glob("*/00000.tar"))) == 1
    assert prepare.plan(recipe.with_values({"dataset.seed": recipe.training.seed})).guides == plan.guides
    assert prepare.plan(recipe.with_values({"dataset.seed": recipe.training.seed + 1})).guides != plan.guides
    assert prepare.plan(Recipe.load(tiny.recipe)).guides == ()


def test_a_run_writes_results_predictions_prompts_and_recipe(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    run = jobs.run_here(load(tiny, tiny_set), str(tmp_path))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"run.json", "recipe.yaml", "prompts.safetensors", "metrics.jsonl", "predictions.parquet"} <= names
    assert json.loads(storage.read_bytes(str(tmp_path / "results.json"))) == run.results
    assert run.name == "syncclip-both-2-seed1"
    assert Recipe.load(str(tmp_path / "recipe.yaml")).training.images_per_class == 2


@pytest.mark.parametrize("data", [*(pytest.param(x, marks=pytest.mark.nightly) for x in ("real", "synthetic")), "both"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "promptkd"])  # see test_teacher.py
def test_every_method_trains_and_is_evaluated(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, name: str, data: str
) -> None:
    values = [f"training.method={name}", f"training.data={data}", "training.epochs=1"]
    run = jobs.run_here(load(tiny, tiny_set, *values), str(tmp_path))
    assert all(0 <= run.results[key] <= 100 for key in ("base", "novel", "all_classes_accuracy"))
    assert jobs.evaluate(run.url) == run


@pytest.mark.fault
def test_training_without_ray_restarts_after_losing_a_loader_process(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load(tiny, tiny_set, "training.checkpoint_every=1")
    jobs.run_here(recipe, str(tmp_path / "unbroken"))
    dies = tmp_path / "dies"
    prepare = MixedStream.batch

    def abort(self: MixedStream, epoch: int, step: int) -> Batch:
        if multiprocessing.parent_process() is not None and step == 1 and dies.exists():
            dies.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return prepare(self, epoch, step)

    monkeypatch.setattr(MixedStream, "batch", abort)
    with_process = recipe.with_values({"training.loader_processes": 1})
    dies.touch()
    jobs.run_here(with_process, str(tmp_path / "restarted"))
    assert not dies.exists() and fakes.bits(tmp_path / "restarted") == fakes.bits(tmp_path / "unbroken")
    dies.touch()
    with pytest.raises(LostLoaderError, match="exited unexpectedly"):
        jobs.run_here(with_process.with_values({"training.max_failures": 0}), str(tmp_path / "lost"))


def test_a_run_in_the_folder_of_its_set_keeps_the_shards(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    both = str(shutil.copytree(tiny_set, tmp_path / "both"))
    jobs.run_here(Recipe.load(tiny.recipe), both)
    names = ("*.tar", "*_stats.json", "plan.json")
    assert files(both, *names) == files(tiny_set, *names)
    assert jobs.evaluate(both).results["counts"]["all"] == 24


def test_a_finished_run_is_not_repeated_or_replaced(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = jobs.run_here(load(tiny, tiny_set), str(tmp_path))
    monkeypatch.setattr(build, "build_parts", None)
    assert jobs.run_here(load(tiny, tiny_set), str(tmp_path)) == first
    assert jobs.train(load(tiny, tiny_set), str(tmp_path)) == first
    with pytest.raises(UserError, match="training.epochs: 2 -> 3"):
        jobs.run_here(load(tiny, tiny_set, "training.epochs=3"), str(tmp_path))


@pytest.mark.usefixtures("no_ray_yet")
def test_invalid_sets_and_resources_are_errors(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    partial = shutil.copytree(tiny_set, tmp_path / "partial")
    (partial / "00001_stats.json").unlink()
    other = folder_of_folders(tmp_path / "other")
    many = "training.data=real", "training.workers=4096", "training.batch_size=4096"
    for synthetic, overrides, error in (
        (None, [], r"no synthetic dataset in .*first run `syncclip synth tiny.yaml`, or set training"),
        (tiny_set, ["training.images_per_class=3"], "generate more with `syncclip synth tiny"),
        (str(partial), [], r"1 of 2 shards are missing or truncated \(.*\); complete the dataset"),
        (tiny_set, [f"dataset.name={other}"], "its 6 classes differ"),
        (None, many, "training.workers is 4096"),
    ):
        with pytest.raises(UserError, match=error):
            jobs.train(load(tiny, synthetic, *overrides), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_real_images_and_zero_shot_need_no_set(tiny: TinyWorld, tmp_path: Path) -> None:
    real = jobs.run_here(load(tiny, None, "training.data=real", "training.method=ivlp"), str(tmp_path / "real"))
    assert real.name == "ivlp-real-seed1"
    run = jobs.run_here(load(tiny, None, "training.method=zeroshot"), str(tmp_path / "run"))
    assert run.results["counts"] == {"base": 12, "novel": 12, "all": 24}
    with pytest.raises(UserError, match="a finished run can't be changed"):
        jobs.evaluate(run.url, ["training.seed=2"])
    evaluated = jobs.evaluate(run.url, ["evaluation.split=val"])
    assert (evaluated.split, evaluated.results["counts"]["all"]) == ("val", 12)
    assert json.loads(storage.read_bytes(str(tmp_path / "run" / "results.json"))) == evaluated.results


def test_an_unreadable_image_is_reported_by_name(tiny: TinyWorld, tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "own", splits={"train": 4, "test": 2})
    (folder / "test" / "red_circle" / "000.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"red_circle.000\.png"):
        jobs.run_here(load(tiny, None, "training.method=zeroshot", f"dataset.name={folder}"), str(tmp_path / "run"))


@pytest.mark.parametrize(("name", "candidates"), [("imagenet_a", ADVERSARIAL), ("imagenet_r", RENDITION)])
def test_predictions_on_a_subset_of_classes_are_among_them(
    tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path, name: str, candidates: list[int]
) -> None:
    values = [f"dataset.name={name}", f"dataset.root={miniatures.root}", "training.method=zeroshot"]
    run = jobs.run_here(load(tiny, None, *values, "training.data=real"), str(tmp_path))
    actual = Predictions.read(f"{run.url}/predictions.parquet")
    assert len(actual) == 2 * len(candidates) and len(run.results["per_class"]) == 12
    assert set(actual.all_classes_prediction.tolist()) | set(actual.within_split_prediction.tolist()) <= set(candidates)


def test_a_class_name_longer_than_the_context_is_an_error(tiny: TinyWorld, tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    (folder / "red_circle").rename(folder / "_".join(["very"] * 40))
    values = [f"dataset.name={folder}", "training.method=zeroshot", "training.data=real"]
    with pytest.raises(UserError, match="exceeds the CLIP context length of 16 tokens.*shorter class name"):
        jobs.run_here(load(tiny, None, *values), str(tmp_path / "run"))
