"""Evaluation on several workers of a cluster: the files of one process, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip import jobs
from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from tests.conftest import TinyWorld

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

FILES = ("results.json", "predictions.parquet")


@pytest.fixture(scope="module")
def run(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> jobs.Run:
    values = ["training.data=real", "training.method=ivlp", "training.epochs=1", "evaluation.batch=5"]
    return jobs.run_here(Recipe.load(tiny.recipe, values), str(tmp_path_factory.mktemp("run")))


@pytest.mark.parametrize("workers", [1, 2, 3, 7])  # 24 images are 5 batches of 5, so two of 7 workers have none
def test_any_number_of_workers_writes_the_same_bytes(run: jobs.Run, workers: int) -> None:
    alone = [(Path(run.url) / file).read_bytes() for file in FILES]
    for file in FILES:
        (Path(run.url) / file).unlink()
    jobs.evaluate(run.url, [f"evaluation.workers={workers}"])
    assert [(Path(run.url) / file).read_bytes() for file in FILES] == alone


def test_a_dataset_that_is_gone_is_one_sentence(run: jobs.Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        jobs.evaluate(run.url, ["evaluation.workers=2"], dataset=str(tmp_path / "nowhere"))


def test_a_training_of_two_workers_is_evaluated_by_both(tiny: TinyWorld, tmp_path: Path) -> None:
    values = ["training.data=real", "training.method=ivlp", "training.epochs=1", "training.workers=2"]
    trained = jobs.train(Recipe.load(tiny.recipe, [*values, "evaluation.batch=5"]), str(tmp_path))
    shared = [(tmp_path / file).read_bytes() for file in FILES]
    assert trained.results["counts"]["all"] == 24
    jobs.evaluate(trained.url, ["evaluation.batch=5"])  # in this process
    assert [(tmp_path / file).read_bytes() for file in FILES] == shared
