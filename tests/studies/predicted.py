"""Studies and trainings with chosen accuracies: their predictions are written without any training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from syncclip import storage
from syncclip.evaluation.predict import Predictions, results, save_evaluation
from syncclip.recipe.recipe import Recipe
from syncclip.runs.classes import CLASSES, RunClasses
from syncclip.studies import outputs, predictions
from syncclip.studies.analysis import Evidence
from syncclip.studies.grid import cells
from syncclip.studies.statistics.metrics import Outcomes
from syncclip.training.run_folder import PROMPTS, RunFolder, RunRecord

BASE, COUNT, IMAGES = 4, 8, 200
"""Number of base classes, number of classes, and number of test images per class."""
LABELS = np.repeat(np.arange(COUNT), IMAGES)
STUDY = [
    "study.configurations=[{method: zeroshot}, {method: ivlp, data: real}, {method: syncclip}]",
    "study.images_per_class=[1, 4, 16, 64]",
    "study.seeds=[1, 2, 3]",
    "study.resamples=200",
]
Accuracy = Callable[[str, int], float]
"""(configuration, images per class or 0) -> accuracy in per cent, a multiple of 0.5."""


def correct(accuracy: float, spread: float = 0.0) -> np.ndarray:
    """Whether each image is classified correctly, with accuracies of the classes of a split up to `spread` from the
    mean."""
    deviations = np.tile([-spread, -spread / 2, spread / 2, spread], 2)
    counts = np.round(IMAGES * (accuracy + deviations) / 100).astype(int)
    return np.concatenate([np.arange(IMAGES) < count for count in counts])


def write_study(
    folder: Path, accuracy: Accuracy, *overrides: str, spread: float = 0.0, status: outputs.Status = "done"
) -> str:
    """Write the files of a study that are needed to recompute its results; consecutive seeds differ by half a point."""
    recipe = Recipe.of_defaults([*STUDY, *overrides])
    settings, split = recipe.study, recipe.evaluation.split
    grid = cells(settings)
    states = [
        outputs.CellState(cell.name, cell.configuration.name, cell.images_per_class, cell.seed, status, None, "")
        for cell in grid
    ]
    state = outputs.StudyState(
        name="predicted",
        dataset="shapes",
        classnames=[f"class {label}" for label in range(COUNT)],
        base=BASE,
        split=split,
        synthetic=None,
        reference=settings.reference,
        configurations=[outputs.ConfigurationState(each.name, each.method, each.data) for each in settings.evaluated],
        images_per_class=settings.amounts,
        dropped=[],
        seeds=settings.seeds,
        cells=states,
    )
    evidence = {}
    for cell in grid:
        mean = accuracy(cell.configuration.name, cell.images_per_class or 0)
        right = correct(mean + 0.5 * ((cell.seed or 2) - 2), spread)[None]
        outcomes = Outcomes(right, right, np.full(right.shape, np.nan), LABELS, BASE)
        evidence[cell.configuration.name, cell.images_per_class, cell.seed] = (outcomes,)
    url = str(folder)
    storage.write_with_checksum(storage.join(url, outputs.RECIPE), recipe.to_yaml().encode(), owner=state.owner)
    outputs.write_json(storage.join(url, outputs.STATE), state, state.owner)
    predictions.write(Evidence(settings.evaluated, evidence), url, state.owner)
    return url


def write_training(folder: Path, accuracy: float, *overrides: str, spread: float = 0.0) -> str:
    """Write the files of an evaluated training."""
    recipe = Recipe.of_defaults(["training.method=ivlp", "training.data=real", *overrides])
    names = [f"class {label}" for label in range(COUNT)]
    run = RunFolder(str(folder), "run", recipe.hash, recipe.to_yaml())
    run.write_recipe()
    run.write(RunRecord(name="run", recipe_hash=recipe.hash, status="finished"))
    storage.write_bytes(run.path(PROMPTS), b"")
    classes = RunClasses(dataset="shapes", classnames=names, template="a {}.", base_count=BASE, clip="icons")
    storage.write_document(run.path(CLASSES), classes, run.owner)
    predicted = np.where(correct(accuracy, spread), LABELS, (LABELS + 1) % COUNT)
    ones = np.ones(len(LABELS))
    rows = Predictions(np.arange(len(LABELS)), LABELS, predicted, predicted, ones, ones, np.full(len(LABELS), np.nan))
    numbers = results(rows, names, BASE) | {"split": recipe.evaluation.split}
    save_evaluation(str(folder), numbers, rows, run.owner)
    return str(folder)
