"""Evaluation of a run on its own and on other datasets, in one process and on several workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from syncclip import jobs
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.evaluation.metrics import METRICS
from syncclip.evaluation.predict import Predictions
from syncclip.recipe.recipe import Recipe
from syncclip.runs import evaluate
from syncclip.runs.build import ModelCache
from syncclip.runs.resolve import finished_run, resolve_run
from syncclip.shards.writer import Sample, write_shard
from syncclip.training.run_folder import PROMPTS
from syncclip.verify import verify
from tests.conftest import TinyWorld
from tests.worlds.dataset import tiny_dataset
from tests.worlds.literature import ADVERSARIAL, RENDITION, Miniatures

FILES = ("results.json", "predictions.parquet")


def recipe_of(tiny: TinyWorld, *overrides: str) -> Recipe:
    return Recipe.load(tiny.recipe, ["training.data=real", "training.epochs=1", *overrides])


def train(tiny: TinyWorld, miniatures: Miniatures, out: Path, *overrides: str) -> tuple[jobs.Run, Recipe]:
    """Train on the miniature of ImageNet."""
    dataset = ["dataset.name=imagenet", f"dataset.root={miniatures.root}", "dataset.shots=1"]
    recipe = recipe_of(tiny, *dataset, *overrides)
    return jobs.run_here(recipe, str(out)), recipe


def read(folder: str | Path) -> list[bytes]:
    return [(Path(folder) / name).read_bytes() for name in FILES]


def test_prompts_are_evaluated_on_another_dataset(tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path) -> None:
    run, _ = train(tiny, miniatures, tmp_path, "training.method=ivlp")
    own = read(tmp_path)
    results = jobs.evaluate(run.url, dataset="dtd").results
    assert [entry["name"] for entry in results["per_class"]] == miniatures.of["dtd"].classnames
    assert results["counts"]["all"] == len(miniatures.of["dtd"].items["test"])
    assert read(tmp_path) == own, "the results on its own dataset are kept"
    assert evaluate.transfer_results(finished_run(run.url)[1], "dtd") == results


@pytest.mark.parametrize(("name", "candidates"), [("imagenet_a", ADVERSARIAL), ("imagenet_r", RENDITION)])
def test_candidates_on_a_variant_are_its_classes(
    tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path, name: str, candidates: list[int]
) -> None:
    run, _ = train(tiny, miniatures, tmp_path, "training.method=zeroshot")
    jobs.evaluate(run.url, dataset=name)
    predictions = Predictions.read(str(tmp_path / "transfer" / name / "predictions.parquet"))
    assert set(np.unique(predictions.all_classes_prediction)) <= set(candidates)
    assert sorted(set(predictions.label.tolist())) == candidates


def test_added_dataset_is_evaluated_without_another_training(
    tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path
) -> None:
    run, recipe = train(tiny, miniatures, tmp_path, "training.method=ivlp")
    stamp = (tmp_path / "prompts.safetensors").stat().st_mtime_ns
    extended = recipe.with_values({"evaluation.transfer": ["dtd"]})
    assert evaluate.missing_transfers(extended, finished_run(run.url)[1]) == ["dtd"]
    jobs.run_here(extended, run.url)
    assert evaluate.missing_transfers(extended, finished_run(run.url)[1]) == []
    assert (tmp_path / "prompts.safetensors").stat().st_mtime_ns == stamp


def test_results_of_several_test_domains(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    """One pass gives the same files as trainings with each test domain; a finished run is not trained again."""
    values = ["training.method=syncclip", "training.data=both", f"training.synthetic={tiny_set}"]
    recipe = recipe_of(tiny, *values, "evaluation.calibrate=true")
    run = jobs.run_here(recipe, str(tmp_path / "run"))
    own, stamp = read(run.url), (tmp_path / "run" / "prompts.safetensors").stat().st_mtime_ns
    extended = recipe.with_values({"evaluation.test_domains": ["real", "synthetic", "both"]})
    assert evaluate.missing_domains(extended, finished_run(run.url)[1]) == ["real", "synthetic", "both"]
    jobs.run_here(extended, run.url)
    assert (tmp_path / "run" / "prompts.safetensors").stat().st_mtime_ns == stamp and read(run.url) == own
    assert evaluate.missing_domains(extended, finished_run(run.url)[1]) == []
    confidences = set()
    for domain in ("real", "synthetic", "both"):
        folder = tmp_path / "run" / "test_domains" / domain
        single = jobs.run_here(recipe.with_values({"methods.syncclip.test_domain": domain}), str(tmp_path / domain))
        numbers = json.loads((folder / "results.json").read_text())
        assert numbers["test_domain"] == domain and numbers["temperature"] == json.loads(own[0])["temperature"]
        ours, theirs = (Predictions.read(f"{url}/predictions.parquet") for url in (folder, single.url))
        assert np.array_equal(ours.all_classes_prediction, theirs.all_classes_prediction)
        confidences.add(ours.all_classes_confidence.tobytes())
    assert len(confidences) == 3
    problems: list[str] = []
    assert verify(run.url, problems.append).problems == problems == []
    (folder / "results.json").unlink()
    assert not evaluate.done(*resolve_run(extended, run.url))


@pytest.mark.parametrize("dataset", ["dtd", "imagenet_v2"])  # the latter has as many classes
def test_class_specific_parameters_do_not_transfer(
    tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path, dataset: str
) -> None:
    values = ["training.method=coop", "methods.coop.class_specific=true", "methods.coop.text_tokens=1"]
    run, _ = train(tiny, miniatures, tmp_path, *values)
    with pytest.raises(UserError, match=rf"'coop' learned class-specific parameters .* those of '{dataset}'"):
        jobs.evaluate(run.url, dataset=dataset)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tar, _: tar.write_bytes(tar.read_bytes()[:-1] + b"\1"), "test/00000.tar: its checksum does not match"),
        (
            lambda _, url: write_shard(url, 0, [Sample(i, 0, b"no image", "x") for i in range(24)]),
            "000000000.jpg: unrea",
        ),
    ],
    ids=["flipped bit outside of images", "undecodable image"],
)
def test_damaged_test_image_is_an_error(
    tiny: TinyWorld, tmp_path: Path, damage: Callable[[Path, str], None], message: str
) -> None:
    run = jobs.run_here(Recipe.load(tiny.recipe, ["training.method=zeroshot"]), str(tmp_path / "run"))
    other = tiny_dataset(tmp_path / "other")
    damage(other / "test" / "00000.tar", str(other / "test"))
    with pytest.raises(UserError, match=message):
        jobs.evaluate(run.url, dataset=str(other))
    assert not list((tmp_path / "run").glob("transfer/*/results.json"))


@pytest.fixture(scope="module")
def run(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> jobs.Run:
    recipe = recipe_of(tiny, "training.method=ivlp", "evaluation.batch_size=5")
    return jobs.run_here(recipe, str(tmp_path_factory.mktemp("run")))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
class TestOnRay:
    """Evaluation by several workers."""

    def test_workers_evaluate_all_test_domains(self, tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
        values = ["training.method=syncclip", "training.data=both", f"training.synthetic={tiny_set}"]
        recipe = recipe_of(tiny, *values, "evaluation.batch_size=5", "evaluation.test_domains=[both]")
        run = jobs.run_here(recipe, str(tmp_path))
        expected = read(tmp_path / "test_domains" / "both")
        (tmp_path / "test_domains" / "both" / "results.json").unlink()
        jobs.evaluate(run.url, ["evaluation.workers=3"])
        assert read(tmp_path / "test_domains" / "both") == expected

    @pytest.mark.parametrize("workers", [1, 3, 7])  # 24 images are 5 batches of 5, so two of 7 workers have none
    def test_results_are_bit_identical_for_any_number_of_workers(self, run: jobs.Run, workers: int) -> None:
        expected = read(run.url)
        for name in FILES:
            (Path(run.url) / name).unlink()
        jobs.evaluate(run.url, [f"evaluation.workers={workers}"])
        assert read(run.url) == expected

    def test_training_workers_share_the_evaluation(self, tiny: TinyWorld, tmp_path: Path) -> None:
        recipe = recipe_of(tiny, "training.method=ivlp", "training.workers=2", "evaluation.batch_size=5")
        run = jobs.train(recipe, str(tmp_path))
        expected = read(tmp_path)
        assert run.results["counts"]["all"] == 24
        jobs.evaluate(run.url, ["evaluation.batch_size=5"])  # in this process
        assert read(tmp_path) == expected


@pytest.mark.parametrize("file", ["contents.json", "results.json"])
def test_interrupted_evaluation_is_completed(
    tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path, file: str
) -> None:
    _, recipe = train(tiny, miniatures, tmp_path, "training.method=zeroshot")
    expected = (tmp_path / file).read_bytes()
    (tmp_path / file).unlink()
    jobs.run_here(recipe, str(tmp_path))
    assert (tmp_path / file).read_bytes() == expected


def test_results_contain_zero_shot_clip_on_the_same_images_also_from_a_cache_and_on_several_workers(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    recipe, cache = recipe_of(tiny, "training.method=ivlp"), ModelCache()
    first, second = (jobs.run_here(recipe, str(tmp_path / name), cache) for name in ("first", "second"))
    zero_shot = jobs.run_here(recipe_of(tiny, "training.method=zeroshot"), str(tmp_path / "zero_shot"))
    scores = {key: zero_shot.results[key] for key in METRICS}
    assert first.results["baselines"]["zero_shot"] == second.results["baselines"]["zero_shot"] == scores
    assert read(first.url)[1] == read(second.url)[1], "the baseline does not change the predictions"
    assert first.results["baselines"]["chance"] == zero_shot.results["baselines"]["chance"]
    assert "zero_shot" not in zero_shot.results["baselines"]
    evaluated, _ = finished_run(first.url)
    prompts = (tmp_path / "first" / PROMPTS).read_bytes()
    images = zero_shot.results["counts"]["all"]
    parts = [evaluate.predict_part(evaluated, prompts, part, 2, current(), baseline=True) for part in range(2)]
    joined = Predictions.joined([part[-1] for part in parts], images)
    expected = Predictions.read(str(tmp_path / "zero_shot" / "predictions.parquet"))
    assert np.array_equal(joined.all_classes_prediction, expected.all_classes_prediction)


def test_a_template_that_the_method_does_not_use_may_exceed_the_context_length(tiny: TinyWorld, tmp_path: Path) -> None:
    recipe = recipe_of(tiny, "training.method=coop", f"dataset.template={'very ' * 90}{{}}")
    assert "zero_shot" not in jobs.run_here(recipe, str(tmp_path)).results["baselines"]
