"""A finished run on its own and on other datasets, in one process and on several workers of a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from syncclip import jobs, storage
from syncclip.core.settings import UserError
from syncclip.evaluation.predict import Predictions
from syncclip.recipe.recipe import Recipe
from syncclip.runs import evaluate
from syncclip.runs.resolve import finished_run
from syncclip.shards.writer import Sample, write_shard
from tests.conftest import TinyWorld
from tests.worlds.dataset import tiny_dataset
from tests.worlds.literature import ADVERSARIAL, RENDITION, Miniatures

SHORT = ["training.data=real", "training.epochs=1", "dataset.shots=1"]


def trained(tiny: TinyWorld, miniatures: Miniatures, out: Path, *overrides: str) -> tuple[jobs.Run, Recipe]:
    """A run on the miniature of ImageNet."""
    of = ["dataset.name=imagenet", f"dataset.root={miniatures.root}"]
    recipe = Recipe.load(tiny.recipe, [*of, *SHORT, *overrides])
    return jobs.run_here(recipe, str(out)), recipe


def test_prompts_are_laid_over_the_classes_of_another_dataset(
    tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path
) -> None:
    run, _ = trained(tiny, miniatures, tmp_path, "training.method=ivlp")
    found = jobs.evaluate(run.url, dataset="dtd")
    own = json.loads(storage.read_bytes(str(tmp_path / "results.json")))
    assert [one["name"] for one in found.results["per_class"]] == miniatures.of["dtd"].classnames
    assert found.results["counts"]["all"] == len(miniatures.of["dtd"].items["test"])
    assert own == run.results, "the run's own results stay"
    assert evaluate.transfer_results(finished_run(run.url)[1], "dtd") == found.results


@pytest.mark.parametrize(("name", "candidates"), [("imagenet_a", ADVERSARIAL), ("imagenet_r", RENDITION)])
def test_of_a_variant_only_the_classes_that_it_shows_are_candidates(
    tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path, name: str, candidates: list[int]
) -> None:
    run, _ = trained(tiny, miniatures, tmp_path, "training.method=zeroshot")
    jobs.evaluate(run.url, dataset=name)
    said = Predictions.read(str(tmp_path / "transfer" / name / "predictions.parquet"))
    assert set(np.unique(said.all_classes_prediction)) <= set(candidates)
    assert sorted(set(said.label.tolist())) == candidates


def test_a_dataset_that_is_added_is_tested_without_another_training(
    tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path
) -> None:
    run, recipe = trained(tiny, miniatures, tmp_path, "training.method=ivlp")
    stamp = (tmp_path / "prompts.safetensors").stat().st_mtime_ns
    more = recipe.with_values({"evaluation.transfer": ["dtd"]})
    assert evaluate.missing_transfers(more, finished_run(run.url)[1]) == ["dtd"]
    jobs.run_here(more, run.url)
    assert evaluate.missing_transfers(more, finished_run(run.url)[1]) == []
    assert (tmp_path / "prompts.safetensors").stat().st_mtime_ns == stamp


def test_vectors_of_each_class_are_not_carried_to_other_classes(
    tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path
) -> None:
    values = ["training.method=coop", "methods.coop.class_specific=true", "methods.coop.text_tokens=1"]
    run, _ = trained(tiny, miniatures, tmp_path, *values)
    with pytest.raises(UserError, match=r"'coop' learned class-specific parameters for 'imagenet'.* those of 'dtd'"):
        jobs.evaluate(run.url, dataset="dtd")
    # As many classes would fit by their shapes; it is other classes nevertheless.
    with pytest.raises(UserError, match="learned class-specific parameters"):
        jobs.evaluate(run.url, dataset="imagenet_v2")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda tar, _: tar.write_bytes(tar.read_bytes()[:-1] + b"\1"), "test/00000.tar: its checksum differs"),
        (
            lambda _, at: write_shard(at, 0, [Sample(i, 0, b"no image", "x") for i in range(24)]),
            "000000000.jpg: unrea",
        ),
    ],
    ids=["a byte that shows in no image", "an image that doesn't decode"],
)
def test_no_tested_image_is_skipped_or_replaced(
    tiny: TinyWorld, tmp_path: Path, damage: Callable[[Path, str], None], sentence: str
) -> None:
    run = jobs.run_here(Recipe.load(tiny.recipe, ["training.method=zeroshot"]), str(tmp_path / "run"))
    other = tiny_dataset(tmp_path / "other")
    damage(other / "test" / "00000.tar", str(other / "test"))
    with pytest.raises(UserError, match=sentence):
        jobs.evaluate(run.url, dataset=str(other))
    assert not list((tmp_path / "run").glob("transfer/*/results.json"))


FILES = ("results.json", "predictions.parquet")


@pytest.fixture(scope="module")
def small_run(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> jobs.Run:
    values = ["training.data=real", "training.method=ivlp", "training.epochs=1", "evaluation.batch_size=5"]
    return jobs.run_here(Recipe.load(tiny.recipe, values), str(tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize("workers", [1, 2, 3, 7])  # 24 images are 5 batches of 5, so two of 7 workers have none
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_any_number_of_workers_writes_the_same_bytes(small_run: jobs.Run, workers: int) -> None:
    alone = [(Path(small_run.url) / file).read_bytes() for file in FILES]
    for file in FILES:
        (Path(small_run.url) / file).unlink()
    jobs.evaluate(small_run.url, [f"evaluation.workers={workers}"])
    assert [(Path(small_run.url) / file).read_bytes() for file in FILES] == alone


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_training_of_two_workers_is_evaluated_by_both(tiny: TinyWorld, tmp_path: Path) -> None:
    values = ["training.data=real", "training.method=ivlp", "training.epochs=1", "training.workers=2"]
    trained = jobs.train(Recipe.load(tiny.recipe, [*values, "evaluation.batch_size=5"]), str(tmp_path))
    shared = [(tmp_path / file).read_bytes() for file in FILES]
    assert trained.results["counts"]["all"] == 24
    jobs.evaluate(trained.url, ["evaluation.batch_size=5"])  # in this process
    assert [(tmp_path / file).read_bytes() for file in FILES] == shared


@pytest.mark.parametrize("file", ["contents.json", "results.json"])
def test_a_run_interrupted_before_its_last_files_is_completed(
    tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path, file: str
) -> None:
    _, recipe = trained(tiny, miniatures, tmp_path, "training.method=zeroshot")
    expected = (tmp_path / file).read_bytes()
    (tmp_path / file).unlink()
    jobs.run_here(recipe, str(tmp_path))
    assert (tmp_path / file).read_bytes() == expected
