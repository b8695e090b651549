"""The recipe that `init` writes for a user's images."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from syncclip import jobs
from syncclip.cli.init import write_first_recipe
from syncclip.datasets import SPLITS, Dataset, DatasetSettings, load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.studies.gain_prediction import installed_map
from tests.conftest import TinyWorld
from tests.worlds.dataset import folder_of_folders


def export_dataset(dataset: Dataset, folder: Path) -> Path:
    """Write the images of a dataset as files, with a table of their classes."""
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


@pytest.mark.parametrize("values", [["method=zeroshot"], ["method=ivlp", "data=real"], ["method=syncclip"]])
def test_exported_images_have_the_accuracy_of_the_original_dataset(
    tiny: TinyWorld, tiny_set: str, tmp_path: Path, values: list[str]
) -> None:
    folder = export_dataset(load_dataset(DatasetSettings(name=tiny.dataset)), tmp_path / "shapes")
    own = Recipe.load(write_first_recipe(str(folder), out=str(tmp_path / "first.yaml"))).dataset
    overrides = [f"training.{value}" for value in [*values, f"synthetic={tiny_set}"]]
    recipe = Recipe.load(tiny.recipe, overrides)
    before = jobs.run_here(recipe, str(tmp_path / "before")).results
    after = jobs.run_here(recipe.model_copy(update={"dataset": own}), str(tmp_path / "after")).results
    assert {**after, "run": before["run"]} == before


@pytest.mark.parametrize("photographs", [False, True])
def test_first_recipe_contains_every_method_that_can_be_recommended(tmp_path: Path, photographs: bool) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    path = write_first_recipe(str(folder), out=str(tmp_path / "first.yaml"), photographs=photographs)
    predicted = installed_map()
    assert predicted is not None
    names = {*predicted["configuration"].str.partition("@")[0], *predicted["real_only"]}
    assert names <= {each.name for each in Recipe.load(path).study.configurations}
