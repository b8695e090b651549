"""Assessments: measured values, expected gains, automatic pilots and errors."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import loading
from syncclip.datasets.dataset import DatasetSettings
from syncclip.recipe.recipe import Recipe
from syncclip.shards.reader import ImageSet
from syncclip.studies import assess as assessing
from syncclip.studies import gain_prediction, name_knowledge, outputs, run
from syncclip.studies.assess import assess, measure
from tests.conftest import TinyWorld
from tests.studies.synthetic_map import synthetic_map
from tests.worlds.dataset import CLASSES, tiny_dataset
from tests.worlds.rewritten import rewrite_json
from tests.worlds.study import make_set, run_cells_here, study_recipe, study_world

BUNDLED_MAP = gain_prediction.MAP


@pytest.fixture
def recipe(tiny: TinyWorld) -> Recipe:
    return Recipe.load(tiny.recipe)


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Path of the gain map, which does not exist yet."""
    path = tmp_path / "gain_map.csv"
    monkeypatch.setattr(gain_prediction, "MAP", path)
    return path


def test_measured_values_of_the_bundled_clip_model() -> None:
    """The image tower separates the classes of the toy benchmark, but its text tower hardly knows the names."""
    measured = measure(Recipe.load("travel"))
    assert (measured.base, measured.novel, measured.clip) == (7, 7, "icons")
    assert measured.chance == pytest.approx(100 / 7)
    assert measured.chance < measured.zero_shot < measured.class_means < 100
    assert measured.name_knowledge == measured.zero_shot / measured.class_means
    cosines = [pair.value for pair in measured.similar]
    assert cosines == sorted(cosines, reverse=True) and len(cosines) == 5 and max(cosines) < 1


def test_name_knowledge_is_that_of_a_study_with_several_levels() -> None:
    recipe = Recipe.load("travel", ["study.seeds=[1,2]"])
    measured, of_level = measure(recipe), name_knowledge.measure(recipe)
    assert (measured.name_knowledge, measured.images) == (of_level.ratio, of_level.images)


def test_similar_class_names_may_be_novel(recipe: Recipe) -> None:
    pairs = {frozenset(pair.names) for pair in measure(recipe).similar}
    novel = set(CLASSES[3:])
    assert any(pair & novel for pair in pairs) and all(len(pair) == 2 for pair in pairs)


def test_only_training_images_of_base_classes_are_read(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = loading.load_dataset(recipe.dataset)
    allowed = {dataset.split("train").name(row) for row in dataset.few_shot(*recipe.shots)}
    opened: set[str] = set()
    splits: set[str] = set()
    original, split = type(dataset.split("train")).image, type(dataset).split

    def image(self: ImageSet, row: int) -> object:
        opened.add(self.name(row))
        return original(self, row)

    def open_split(self: object, name: str) -> ImageSet:
        splits.add(name)
        return split(self, name)  # type: ignore[arg-type]

    monkeypatch.setattr(type(dataset.split("train")), "image", image)
    monkeypatch.setattr(type(dataset), "split", open_split)
    assert measure(recipe).images == len(allowed) == 12
    assert opened == allowed and splits == {"train"}


def test_gains_are_predicted_for_a_bundled_dataset(installed: Path) -> None:
    """The smallest base classes of the bundled datasets contain fewer images than the map's number of shots."""
    shutil.copy(BUNDLED_MAP, installed)
    assessment = assess(Recipe.load("travel"))
    assert assessment.reason is None and assessment.map_shots == 16 and assessment.expected


def test_without_a_map_only_measured_values_are_returned(recipe: Recipe) -> None:
    assessment = assess(recipe)
    assert assessment.reason == "no gain map is installed"
    assert (assessment.expected, assessment.recommended, assessment.pilot) == ((), None, None)


def test_gains_are_predicted_at_the_measured_name_knowledge(recipe: Recipe, installed: Path) -> None:
    table = synthetic_map(1, between=0.1, within=0.1)
    table["name_knowledge"] += measure(recipe).name_knowledge - 0.5  # where class vectors gain most
    table.to_csv(installed, index=False)
    assessment = assess(recipe)
    assert assessment.reason is None and len(assessment.expected) == 9
    assert assessment.map_range == (table["name_knowledge"].min(), table["name_knowledge"].max())
    assert assessment.recommended is not None and assessment.recommended.configuration == "class-vectors"
    expected = {(gain.configuration, gain.images_per_class): gain.over_real.estimate for gain in assessment.expected}
    assert expected["class-vectors", 16] == pytest.approx(6 * 16 / 17, abs=0.5)


def test_the_gains_of_the_dataset_itself_are_left_out(recipe: Recipe, installed: Path) -> None:
    table = synthetic_map(1, between=0.1, within=0.1)
    table["name_knowledge"] += measure(recipe).name_knowledge - 0.5
    own = table[table["dataset"] == "travel"].assign(dataset=assessing.name_in_map(recipe.dataset))
    table.to_csv(installed, index=False)
    before = assess(recipe).expected
    own[["over_real", "over_zero_shot"]] += 50
    pd.concat([table, own]).to_csv(installed, index=False)
    assert assess(recipe).expected == before
    own.to_csv(installed, index=False)
    assert assess(recipe).reason == "the gain map contains no other dataset"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"name": "icons/travel"}, "icons/travel"),
        ({"name": "caltech101", "root": "/data"}, "caltech101"),
        ({"name": "/data/icons/travel/"}, "icons/travel"),
        ({"name": "travel", "root": "/data/icons"}, "icons/travel"),
        ({"name": "s3://bucket/icons/travel"}, "icons/travel"),
    ],
)
def test_a_dataset_has_one_name_in_the_map(values: dict[str, str], expected: str) -> None:
    assert assessing.name_in_map(DatasetSettings.model_validate(values)) == expected


def test_name_knowledge_is_measured_with_the_shots_of_the_map(recipe: Recipe, installed: Path) -> None:
    table, with_two = synthetic_map(1).assign(shots=2), recipe.with_values({"dataset.shots": 2})
    table["name_knowledge"] += measure(recipe).name_knowledge - 0.5
    table.to_csv(installed, index=False)
    assessment = assess(recipe)
    assert assessment.name_knowledge == measure(recipe).name_knowledge != measure(with_two).name_knowledge
    assert (assessment.map_shots, assessment.map_knowledge) == (2, measure(with_two).name_knowledge)
    assert assessment.expected == assess(with_two).expected != ()


@pytest.mark.parametrize(("shots", "predicted"), [(5, True), (8, True), (9, False)])
def test_base_classes_need_at_least_half_of_the_map_shots(
    recipe: Recipe, installed: Path, shots: int, predicted: bool
) -> None:
    """The test dataset has 4 training images per class."""
    table = synthetic_map(1).assign(shots=shots)
    table["name_knowledge"] += measure(recipe).name_knowledge - 0.5
    table.to_csv(installed, index=False)
    assessment = assess(recipe)
    assert bool(assessment.expected) == (assessment.map_knowledge is not None) == predicted
    assert assessment.reason == (
        None
        if predicted
        else "the gain map was measured with 9 shots, but the base classes have only 4.0 training images on average"
    )


def test_name_knowledge_outside_the_map_has_no_prediction(recipe: Recipe, installed: Path) -> None:
    table = synthetic_map(2)
    table["name_knowledge"] += 10
    table.to_csv(installed, index=False)
    assessment = assess(recipe)
    assert "is outside the gain map, which was measured from 10.3" in (assessment.reason or "")
    assert assessment.expected == () and math.isfinite(assessment.zero_shot)


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["dataset.base=[0]"], "has only one base class, but assess requires at least 2"),
        (["dataset.shots=1"], "every base class has only one training image"),
        (["dataset.name=icons"], "is a suite of 6 datasets; select one dataset"),
        (["backbone.name=hf-hub:nobody/nothing"], "'hf-hub:nobody/nothing' could not be loaded"),
    ],
)
def test_unsuitable_recipes_are_errors(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], error: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=error):
        assess(Recipe.load(tiny.recipe, overrides))


def test_a_dataset_without_training_images_is_an_error(tiny: TinyWorld, tmp_path: Path) -> None:
    folder = tiny_dataset(tmp_path / "shapes")
    shutil.rmtree(folder / "train")
    description = json.loads((folder / "dataset.json").read_text())
    del description["splits"]["train"]
    (folder / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="has no split 'train'"):
        assess(Recipe.load(tiny.recipe, [f"dataset.name={folder}"]))


@pytest.fixture(scope="module")
def pilot_recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe whose own folder contains a finished study on validation images with up to 2 images per class."""
    root = study_world(tmp_path_factory.mktemp("pilot"))
    grid = "study.images_per_class=[1,2]", "study.seeds=[1]", "synthesis.images_per_class=2"
    recipe = study_recipe(root, *grid, "evaluation.split=val")
    recipe = recipe.with_values({"training.synthetic": make_set(recipe, f"{root}/set")})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_cells", run_cells_here)
        run.study(recipe)
    return recipe


def test_a_pilot_in_the_folder_of_the_recipe_is_used(pilot_recipe: Recipe) -> None:
    pilot = assess(pilot_recipe).pilot
    assert pilot is not None and (pilot.images_per_class, pilot.seeds, pilot.limit) == (2, 1, 8)
    assert pilot == assess(pilot_recipe, f"{pilot_recipe.folder}/study").pilot


def test_an_unsuitable_study_in_the_folder_of_the_recipe_is_ignored(
    pilot_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncclip.studies.pilot.MOST_IMAGES", 1)
    assert assess(pilot_recipe).pilot is None
    with pytest.raises(UserError, match="a pilot has at most 1"):
        assess(pilot_recipe, assessing.folder_of(pilot_recipe))


def test_a_study_on_test_images_in_the_folder_of_the_recipe_is_ignored(pilot_recipe: Recipe) -> None:
    path = Path(pilot_recipe.folder) / "study" / outputs.STATE
    state = outputs.read_json(str(path))
    try:
        rewrite_json(path, state | {"split": "test"})
        assert assess(pilot_recipe).pilot is None
    finally:
        rewrite_json(path, state)


def test_datasets_without_a_validation_split_are_marked(tiny: TinyWorld, tmp_path: Path) -> None:
    assert measure(Recipe.load(tiny.recipe)).validation
    folder = tiny_dataset(tmp_path / "shapes")
    description = json.loads((folder / "dataset.json").read_text())
    del description["splits"]["val"]
    (folder / "dataset.json").write_text(json.dumps(description))
    assert not measure(Recipe.load(tiny.recipe, [f"dataset.name={folder}"])).validation


def test_confused_pairs_are_sorted_by_the_percentage_of_confused_images() -> None:
    values = [pair.value for pair in measure(Recipe.load("travel")).confused]
    assert len(values) > 1 and values == sorted(values, reverse=True)
