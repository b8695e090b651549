"""Changes to a run's custom code and images after the training."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

from syncclip import jobs
from syncclip.core.settings import UserError
from syncclip.core.trust import trust
from syncclip.recipe.recipe import Recipe
from syncclip.runs.resolve import resolve_run
from syncclip.studies import cells, grid
from syncclip.studies.results import compare
from tests.conftest import TinyWorld
from tests.worlds.dataset import folder_of_folders

METHOD = "own_inputs.method:Own"


@pytest.fixture
def recipe(tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe with a custom method, which imports a helper, and an image folder without splits."""
    package = tmp_path / "own_inputs"
    package.mkdir()
    (package / "method.py").write_text(
        "from examples.taskres import TaskRes\nfrom .helper import FACTOR\nclass Own(TaskRes):\n    factor = FACTOR\n"
    )
    (package / "helper.py").write_text("FACTOR = 1\n")
    (package / "unused.py").write_text("FACTOR = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("own_inputs", "own_inputs.method", "own_inputs.helper"):
        monkeypatch.setitem(sys.modules, module, None)
        del sys.modules[module]  # the import of an earlier test
    trust(METHOD)
    dataset = folder_of_folders(tmp_path / "shapes")
    values = [f"dataset.name={dataset}", "training.data=real", "training.epochs=1", f"training.method={METHOD}"]
    return Recipe.load(tiny.recipe, values)


def refused(recipe: Recipe, run: str, reason: str) -> None:
    """Check that a run is neither repeated nor evaluated, for this reason."""
    with pytest.raises(UserError, match=f"{re.escape(run)} contains .* inputs have changed .*{reason}.*; restore the"):
        jobs.run_here(recipe, run)
    with pytest.raises(UserError, match=f"{re.escape(run)}: the inputs have changed .*{reason}.*; restore the files"):
        jobs.evaluate(run)


@pytest.mark.parametrize("file", ["method.py", "helper.py"])
def test_a_run_is_not_used_with_changed_custom_code(recipe: Recipe, tmp_path: Path, file: str) -> None:
    run, code = str(tmp_path / "run"), tmp_path / "own_inputs" / file
    trained = jobs.run_here(recipe, run)
    (tmp_path / "own_inputs" / "unused.py").write_text("FACTOR = 2\n")
    assert jobs.run_here(recipe, run) == trained
    before = code.read_text()
    code.write_text(f"{before}# changed\n")
    refused(recipe, run, "files of training.method: modified")
    code.write_text(before)
    assert jobs.evaluate(run).results == trained.results


def test_a_run_is_not_used_with_a_changed_image_folder(recipe: Recipe, tmp_path: Path) -> None:
    run, images = str(tmp_path / "run"), tmp_path / "shapes" / "red_circle"
    trained = jobs.run_here(recipe, run)
    for name in ("new", "newer"):  # of 12 images, round(0.3 * 12) = 4 are test images, instead of 3 of 10
        shutil.copy(images / "000.png", images / f"{name}.png")
    refused(recipe, run, r"test images of dataset.name: 18 -> 19 \(\+1\)")
    for name in ("new", "newer"):
        (images / f"{name}.png").unlink()
    assert jobs.evaluate(run).results == trained.results


def test_a_run_is_evaluated_after_changes_to_training_images_only(recipe: Recipe, tmp_path: Path) -> None:
    dataset = folder_of_folders(tmp_path / "split", splits={"train": 4, "val": 2, "test": 4})
    recipe, run = recipe.with_values({"dataset.name": str(dataset)}), str(tmp_path / "run")
    trained = jobs.run_here(recipe, run)
    (dataset / "train" / "red_circle" / "003.png").unlink()
    assert jobs.evaluate(run).results == trained.results
    with pytest.raises(
        UserError, match=r"\(train images of dataset.name: 24 -> 23 \(-1\)\); restore the files, choose"
    ):
        jobs.run_here(recipe, run)


def test_a_study_is_not_continued_with_changed_inputs(recipe: Recipe, tmp_path: Path) -> None:
    configurations = [{"method": "zeroshot"}, {"method": METHOD, "data": "real", "name": "own"}]
    recipe = recipe.with_values({"study.configurations": configurations})
    study = str(tmp_path / "study")
    for run in cells.prepare(recipe, grid.cells(recipe.study), study, None):
        assert cells.run_cell(run.spec)["error"] is None
    assert {run.status for run in cells.prepare(recipe, grid.cells(recipe.study), study, None)} == {"done"}
    (tmp_path / "own_inputs" / "helper.py").write_text("FACTOR = 2\n")
    with pytest.raises(UserError, match=r"own.*-seed1 contains .* \(files of training.method: modified\)"):
        cells.prepare(recipe, grid.cells(recipe.study), study, None)


def test_compare_lists_changed_code_and_does_not_pair_changed_test_images(recipe: Recipe, tmp_path: Path) -> None:
    runs = [str(tmp_path / name) for name in ("first", "code", "images")]
    jobs.run_here(recipe, runs[0])
    (tmp_path / "own_inputs" / "helper.py").write_text("FACTOR = 2\n")
    jobs.run_here(recipe, runs[1])
    images = tmp_path / "shapes" / "red_circle"
    (images / "000.png").rename(images / "new.png")
    jobs.run_here(recipe, runs[2])
    frame = compare(*runs).query("metric == 'novel'")
    codes = [re.findall("files of training.method=([0-9a-f]{16})", settings) for settings in frame["settings"]]
    assert len(codes[0]) == 1 and codes[0] != codes[1] == codes[2]
    assert frame["reason"].tolist() == ["", "", "different test images (files)"]


def test_shipped_and_packed_datasets_are_not_recorded(tiny: TinyWorld, tmp_path: Path) -> None:
    for name in ("icons/travel", tiny.dataset):
        recipe = Recipe.load(tiny.recipe, [f"dataset.name={name}", "training.data=real"])
        assert resolve_run(recipe, str(tmp_path / "run"))[1].inputs == {}
