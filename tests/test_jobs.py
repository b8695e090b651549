from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from syncclip import jobs, storage
from syncclip.cli import render
from syncclip.core.settings import UserError
from syncclip.evaluation.predict import Predictions
from syncclip.methods import METHODS
from syncclip.recipe.recipe import Recipe
from syncclip.runs import build
from syncclip.synthesis.status import read_status
from syncclip.synthetic_sets import prepare
from syncclip.synthetic_sets.prepare import with_assets
from tests.conftest import TinyWorld
from tests.worlds.dataset import folder_of_folders
from tests.worlds.literature import ADVERSARIAL, RENDITION, Miniatures


def files(folder: str | Path, *patterns: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for pattern in patterns for path in sorted(Path(folder).glob(pattern))}


def here(tiny: TinyWorld, synthetic: str | None, *overrides: str) -> Recipe:
    named = [f"training.synthetic={synthetic}"] if synthetic else []
    return Recipe.load(tiny.recipe, [*named, *overrides])


def test_the_checkpoint_that_is_best_on_validation_images_is_named_and_changes_no_bit(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    recipe = here(tiny, None, "training.data=real", "training.method=ivlp")
    plain, best = tmp_path / "plain", tmp_path / "best"
    jobs.run_here(recipe, str(plain))
    jobs.run_here(recipe.with_values({"training.keep_best": "validation"}), str(best))
    named = r"the best checkpoint by validation is that of step [24] \([0-9.]+\)"
    (note,) = json.loads((best / "run.json").read_text())["notes"]
    assert re.fullmatch(named, note)
    assert (best / "prompts.safetensors").read_bytes() == (plain / "prompts.safetensors").read_bytes()


def test_trainings_on_a_device_agree_in_every_bit(tiny: TinyWorld, tiny_set: str, tmp_path: Path, device: str) -> None:
    recipe = here(tiny, tiny_set, "training.method=syncclip", f"training.device={device}")
    for name in "ab":
        jobs.run_here(recipe, str(tmp_path / name))
    kinds = ("prompts.safetensors", "metrics.jsonl")
    assert files(tmp_path / "a", *kinds) == files(tmp_path / "b", *kinds) != {}
    (tmp_path / "b" / "prompts.safetensors").unlink()  # as after a kill behind its newest checkpoint
    jobs.run_here(recipe, str(tmp_path / "b"))
    assert files(tmp_path / "b", *kinds) == files(tmp_path / "a", *kinds)


def test_who_only_starts_a_synthesis_imports_no_torch() -> None:
    code = "import sys, syncclip.jobs, syncclip.synthesis.driver; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_plan_follows_the_recipe(tiny: TinyWorld) -> None:
    plan = prepare.plan(Recipe.load(tiny.recipe, ["synthesis.images_per_class=3"]))
    assert (plan.classes, plan.total, len(plan.shards())) == (6, 18, 3)
    assert plan.entry(7).prompt == "a photo of a green circle."


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ray_draws_the_shards_that_one_process_draws_with_plan_and_recipe_beside_them(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    summary = jobs.synth(Recipe.load(tiny.recipe, ["synthesis.actors=2", "synthesis.quality=true"]), str(tmp_path))
    status = read_status(str(tmp_path))
    assert status is not None and summary.work.rate == status.rate > 0, "one throughput"
    assert f"{status.rate:.3g} images/s" in render.summary(summary)
    kinds = ("*.tar", "*.parquet", "plan.json")
    assert (summary.complete, summary.images, summary.shards) == (True, 12, 2)
    assert files(tmp_path, *kinds) == files(tiny_set, *kinds)
    assert Recipe.load(str(tmp_path / "synthesis.yaml")).synthesis.actors == 2
    assert json.loads((tmp_path / "stats.json").read_text())["measured"] == 12


def test_what_filters_need_lies_beside_the_set_and_its_digest_in_the_plan(tiny: TinyWorld, tmp_path: Path) -> None:
    import torch

    from syncclip.synthesis.filters import build_filters
    from syncclip.synthesis.plan import agreed_plan, read_plan, write_plan

    torch.save(torch.nn.Linear(24, 1).state_dict(), tmp_path / "head.pth")
    head = f"{{name: clip_head, reason: aesthetic, weights: {tmp_path}/head.pth, minimum: 0}}"
    recipe = Recipe.load(tiny.recipe, [f"synthesis.filters=[{head}, {{name: leakage}}]"])
    url = str(tmp_path / "set")
    plan = with_assets(recipe, prepare.plan(recipe), url)
    digests = [item.checksum for item in plan.filters if hasattr(item, "checksum")]
    assert sorted(file.stem for file in (tmp_path / "set" / "filters").iterdir()) == sorted(digests)
    assert [item.name for item in build_filters(plan.filters, plan.classnames, url=url)] == ["aesthetic", "leakage"]
    write_plan(plan, url)
    (tmp_path / "head.pth").unlink()  # a machine that draws on needs nothing but the set
    assert with_assets(recipe, agreed_plan(prepare.plan(recipe), read_plan(url), url), url) == plan


def test_a_guided_set_holds_the_shots_that_its_plan_names_and_no_others(tiny: TinyWorld, tmp_path: Path) -> None:
    guide = ["synthesis.generator.guide={strength: 0.5}", "dataset.shots=2"]
    recipe = Recipe.load(tiny.recipe, guide)
    plan = with_assets(recipe, prepare.plan(recipe), str(tmp_path))
    assert [len(real) for real in plan.guides] == [2, 2, 2, 0, 0, 0]
    assert len(list((tmp_path / "guides").glob("*/00000.tar"))) == 1
    assert prepare.plan(recipe.with_values({"dataset.seed": recipe.training.seed})).guides == plan.guides
    assert prepare.plan(recipe.with_values({"dataset.seed": recipe.training.seed + 1})).guides != plan.guides
    assert prepare.plan(Recipe.load(tiny.recipe)).guides == ()


def test_training_before_synthesis_names_the_command_that_comes_first(tiny: TinyWorld, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no synthetic set in {tmp_path}.*first run `syncclip synth tiny.yaml --out"):
        jobs.train(Recipe.load(tiny.recipe), str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_run_has_results_predictions_prompts_and_its_recipe(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    run = jobs.run_here(here(tiny, tiny_set), str(tmp_path))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"run.json", "recipe.yaml", "prompts.safetensors", "metrics.jsonl", "results.json"} <= names
    assert "predictions.parquet" in names
    assert json.loads(storage.read_bytes(str(tmp_path / "results.json"))) == run.results
    assert run.name == "syncclip-both-2-seed1"
    assert Recipe.load(str(tmp_path / "recipe.yaml")).training.images_per_class == 2


@pytest.mark.parametrize("data", ["real", "synthetic", "both"])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "promptkd"])  # see test_taught.py
def test_every_method_goes_the_whole_way_on_any_data(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, name: str, data: str
) -> None:
    values = [f"training.method={name}", f"training.data={data}", "training.epochs=1"]
    run = jobs.run_here(here(tiny, tiny_set, *values), str(tmp_path))
    assert all(0 <= run.results[key] <= 100 for key in ("base", "novel", "all_classes_accuracy"))
    assert jobs.evaluate(run.url) == run


def test_a_run_in_the_folder_of_its_set_leaves_the_shards_alone(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    both = str(shutil.copytree(tiny_set, tmp_path / "both"))
    jobs.run_here(Recipe.load(tiny.recipe), both)
    assert files(both, "*.tar", "*_stats.json", "plan.json") == files(tiny_set, "*.tar", "*_stats.json", "plan.json")
    assert jobs.evaluate(both).results["counts"]["all"] == 24


def test_a_finished_run_is_not_made_again(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = jobs.run_here(here(tiny, tiny_set), str(tmp_path))
    monkeypatch.setattr(build, "build_parts", None)
    assert jobs.run_here(here(tiny, tiny_set), str(tmp_path)) == first
    assert jobs.train(here(tiny, tiny_set), str(tmp_path)) == first


def test_another_recipe_in_the_same_folder_is_refused(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    jobs.run_here(here(tiny, tiny_set), str(tmp_path))
    with pytest.raises(UserError, match="training.epochs: 2 -> 3"):
        jobs.run_here(here(tiny, tiny_set, "training.epochs=3"), str(tmp_path))


def test_more_images_than_the_set_holds_are_refused(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 2 images per class; generate more with `syncclip synth tiny"):
        jobs.train(here(tiny, tiny_set, "training.images_per_class=3"), str(tmp_path))


def test_an_unfinished_set_is_refused(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    part = shutil.copytree(tiny_set, tmp_path / "part")
    (part / "00001_stats.json").unlink()
    with pytest.raises(UserError, match=r"1 of 2 shards are missing or truncated \(.*\); complete the set"):
        jobs.train(here(tiny, str(part)), str(tmp_path / "run"))


def test_a_set_of_other_classes_is_refused(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    from tests.worlds.dataset import folder_of_folders

    other = folder_of_folders(tmp_path / "other")
    with pytest.raises(UserError, match="its 6 classes differ"):
        jobs.train(here(tiny, tiny_set, f"dataset.name={other}"), str(tmp_path / "run"))


def test_learning_from_real_images_needs_no_set(tiny: TinyWorld, tmp_path: Path) -> None:
    run = jobs.run_here(here(tiny, None, "training.data=real", "training.method=ivlp"), str(tmp_path))
    assert run.name == "ivlp-real-seed1"
    assert 0 <= run.results["all_classes_accuracy"] <= 100


def test_zero_shot_needs_no_set_and_no_steps(tiny: TinyWorld, tmp_path: Path) -> None:
    run = jobs.run_here(here(tiny, None, "training.method=zeroshot"), str(tmp_path))
    assert run.results["counts"] == {"base": 12, "novel": 12, "all": 24}


@pytest.mark.usefixtures("no_ray_yet")
def test_more_workers_than_cpus_are_refused(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = here(tiny, None, "training.data=real", "training.workers=4096", "training.batch_size=4096")
    with pytest.raises(UserError, match="training.workers is 4096"):
        jobs.train(recipe, str(tmp_path))


def test_evaluation_on_another_split_replaces_the_results(tiny: TinyWorld, tmp_path: Path) -> None:
    jobs.run_here(here(tiny, None, "training.method=zeroshot"), str(tmp_path))
    run = jobs.evaluate(str(tmp_path), ["evaluation.split=val"])
    assert (run.split, run.results["counts"]["all"]) == ("val", 12)
    assert json.loads(storage.read_bytes(str(tmp_path / "results.json"))) == run.results


def test_evaluation_cannot_change_the_run(tiny: TinyWorld, tmp_path: Path) -> None:
    jobs.run_here(here(tiny, None, "training.method=zeroshot"), str(tmp_path))
    with pytest.raises(UserError, match="a finished run can't be changed"):
        jobs.evaluate(str(tmp_path), ["training.seed=2"])


def test_an_unreadable_image_is_named(tiny: TinyWorld, tmp_path: Path) -> None:
    from tests.worlds.dataset import folder_of_folders

    folder = folder_of_folders(tmp_path / "own", splits={"train": 4, "test": 2})
    broken = folder / "test" / "red_circle" / "000.png"
    broken.write_bytes(b"not an image")
    recipe = here(tiny, None, "training.method=zeroshot", f"dataset.name={folder}")
    with pytest.raises(UserError, match=r"red_circle.000\.png"):
        jobs.run_here(recipe, str(tmp_path / "run"))


@pytest.mark.parametrize(("name", "candidates"), [("imagenet_a", ADVERSARIAL), ("imagenet_r", RENDITION)])
def test_a_test_set_of_few_classes_is_told_apart_among_those_only(
    tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path, name: str, candidates: list[int]
) -> None:
    values = [f"dataset.name={name}", f"dataset.root={miniatures.root}", "training.method=zeroshot"]
    run = jobs.run_here(here(tiny, None, *values, "training.data=real"), str(tmp_path))
    actual = Predictions.read(f"{run.url}/predictions.parquet")
    assert len(actual) == 2 * len(candidates) and len(run.results["per_class"]) == 12
    assert set(actual.all_classes_prediction.tolist()) | set(actual.within_split_prediction.tolist()) <= set(candidates)


def test_a_name_that_does_not_fit_the_context_is_told(tiny: TinyWorld, tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    (folder / "red_circle").rename(folder / "_".join(["very"] * 40))
    values = [f"dataset.name={folder}", "training.method=zeroshot", "training.data=real"]
    with pytest.raises(UserError, match="does not fit the 16 tokens.*shorter class name"):
        jobs.run_here(here(tiny, None, *values), str(tmp_path / "run"))
