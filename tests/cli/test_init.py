"""The recipe that `init` writes for a user's images."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pandas as pd
import pytest

from syncclip import jobs
from syncclip.cli import app
from syncclip.cli.init import write_first_recipe
from syncclip.datasets import SPLITS, Dataset, DatasetSettings, load_dataset
from syncclip.recipe.recipe import Recipe
from tests.conftest import TinyWorld


def exported(dataset: Dataset, folder: Path) -> Path:
    """The images of a dataset as an image folder of files and a table that tells their classes."""
    rows = []
    for split in SPLITS:
        images = dataset.split(split)
        for row, label in enumerate(images.labels):
            path = f"{split}/{row:06d}.jpg"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(images.read(row))  # type: ignore[attr-defined]
            rows.append({"file_name": path, "label": int(label), "classname": dataset.classnames[label]})
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


def accuracies(run: jobs.Run) -> dict[str, object]:
    return {key: value for key, value in run.results.items() if key != "run"}


@pytest.mark.parametrize("values", [["method=zeroshot"], ["method=ivlp", "data=real"], ["method=syncclip"]])
def test_exported_images_give_the_accuracy_of_the_dataset_that_they_are_from(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, values: list[str]
) -> None:
    folder = exported(load_dataset(DatasetSettings(name=tiny.dataset)), tmp_path / "shapes")
    place = write_first_recipe(str(folder), out=str(tmp_path / "first.yaml"))
    own = Recipe.load(place).dataset
    overrides = [f"training.{value}" for value in [*values, f"synthetic={tiny_set}"]]
    recipe = Recipe.load(tiny.recipe, overrides)
    before = jobs.run_here(recipe, str(tmp_path / "before"))
    after = jobs.run_here(recipe.model_copy(update={"dataset": own}), str(tmp_path / "after"))
    assert accuracies(after) == accuracies(before)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_study_of_exported_images_finds_what_that_of_the_dataset_itself_finds(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    shutil.copytree(tiny_set, synthetic := tmp_path / "set")
    folder = exported(load_dataset(DatasetSettings(name=tiny.dataset)), tmp_path / "shapes")
    first, own = str(tmp_path / "first.yaml"), tmp_path / "own.yaml"
    assert app.run(["init", str(folder), "--out", first]) == 0
    configurations = "study.configurations=[{method: zeroshot}, {method: syncclip}]"
    small = [configurations, "study.images_per_class=[1]", f"training.synthetic={synthetic}", "evaluation.split=val"]
    own.write_text(Recipe.load(tiny.recipe).model_copy(update={"dataset": Recipe.load(first).dataset}).to_yaml())
    for recipe, out in ((tiny.recipe, "before"), (str(own), "after")):
        assert app.run(["study", recipe, *small, "--out", str(tmp_path / out)]) == 0
    before, after = (pd.read_parquet(tmp_path / out / "study.parquet") for out in ("before", "after"))
    reported = ["cell", "base", "novel", "hm", "all_classes_base", "all_classes_novel", "all_classes_hm", "ece"]
    pd.testing.assert_frame_equal(after[reported], before[reported])
    assert len(before) == 2
