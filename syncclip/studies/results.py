"""Accuracies of a study or training as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.evaluation.predict import RESULTS, read_results
from syncclip.recipe.recipe import Recipe
from syncclip.recipe.study import Configuration
from syncclip.runs.classes import read_classes
from syncclip.runs.resolve import finished_run
from syncclip.storage.urls import absolute
from syncclip.studies import outputs, predictions
from syncclip.studies.analysis import Evidence, Point, gather
from syncclip.studies.grid import Cell
from syncclip.studies.levels_state import read_state
from syncclip.studies.statistics.bootstrap import Resampled, interval
from syncclip.training.run_folder import RECORD


@dataclass(frozen=True)
class Source:
    """Outcomes of a study or training; `test_images` contains properties that identify the test images."""

    url: str
    kind: Literal["study", "training"]
    recipe: Recipe
    evidence: Evidence
    test_images: Mapping[str, Any]

    @property
    def points(self) -> list[Point]:
        """All configurations at their numbers of images."""
        return [point for each in self.evidence.configurations for point in self.evidence.points(each)]


def read_source(folder: str, finished: bool = False) -> Source:
    """Read the predictions of a study (also from its parent folder) or of a training.

    Args:
        finished: whether all runs of a study must be finished.

    Raises:
        UserError: there is no study or training, it has no results, runs are not finished, or a file is corrupt.
    """
    url = absolute(folder)
    if not storage.exists(storage.join(url, RECORD)) and storage.exists(storage.join(url, "study")):
        url = storage.join(url, "study")
    if (levels := read_state(url)) is not None:
        raise UserError(f"{url}: the study has several pretrained tags; pass a subfolder: {url}/{levels.pretrained[0]}")
    kind: Literal["study", "training"] = "study"
    if storage.exists(storage.join(url, outputs.STATE)):
        about = outputs.read_json(storage.join(url, outputs.STATE))
        if finished:
            outputs.check_finished(url, about)
        recipe, evidence, _ = predictions.read_study(url)
    elif storage.exists(storage.join(url, RECORD)):
        (recipe, run), kind = finished_run(url), "training"
        about = read_classes(run).model_dump() | read_results(run.path(RESULTS), run.owner)
        configuration = Configuration(method=recipe.training.method, data=recipe.training.data)
        n = recipe.training.images_per_class if configuration.synthetic else None
        # Without a seed, any two trainings can be paired by their test images.
        evidence = gather([(Cell(configuration, n, None), run)], [configuration], about["base_count"])
    else:
        raise UserError(f"{url}: no study or training; pass a folder written by `syncclip study` or `syncclip train`")
    if not evidence.cells:
        raise UserError(f"{url}: no training run is finished; run the study again")
    images = {key: about[key] for key in ("dataset", "split", "classnames")}
    images |= {"split_seed": recipe.dataset.split_seed, "resize": recipe.dataset.resize}
    images["labels"] = [part.label.tolist() for part in next(iter(evidence.cells.values()))]
    return Source(url, kind, recipe, evidence, images)


def results(folder: str) -> pd.DataFrame:
    """Return the accuracies of a study or training, with standard errors and confidence intervals.

    Args:
        folder: path or URL of the study or training. For a suite, accuracies are averaged over its datasets.

    Returns:
        One row per configuration, number of images and metric, with these columns:

        - `dataset`, `split`: origin of the test images.
        - `configuration`, `method`, `data`: name, method and training data.
        - `images_per_class`: number of synthetic images per class; missing without synthetic images.
        - `metric`: key of the metric, such as `novel` or `all_classes_hm`.
        - `mean`: mean over seeds in per cent.
        - `standard_error`: standard error over seeds; missing for a single seed.
        - `low`, `high`: confidence interval over seeds and classes.
        - `confidence_level`: level of the interval.
        - `seeds`: number of seeds.

    Raises:
        UserError: there is no study or training, it has no results yet, or a file is corrupt.

    Examples:
        >>> from syncclip import results
        >>> frame = results("runs/study")
        >>> frame.query("configuration == 'ivlp-both' and metric == 'novel'")["images_per_class"].tolist()
        [1, 2]
    """
    source = read_source(folder)
    evidence, resamples, rows = source.evidence, source.recipe.study.resamples, []
    for point in source.points:
        rows += accuracies(source, point, evidence.resampled(point, evidence.seeds([point]), "classes", resamples))
    return pd.DataFrame(rows).astype({"images_per_class": "Int64"})


def accuracies(source: Source, point: Point, resampled: Resampled) -> Iterator[dict[str, Any]]:
    """Yield the rows of `results` at a point, by metric."""
    (configuration, n), level = point, source.recipe.study.confidence_level
    for metric, (of_seeds, values) in resampled.items():
        bounds, seeds = interval(of_seeds.mean(), values, level), len(of_seeds)
        yield {
            **{key: source.test_images[key] for key in ("dataset", "split")},
            "configuration": configuration.name,
            "method": configuration.method,
            "data": configuration.data if configuration.trained else "none",
            "images_per_class": n,
            "metric": metric,
            "mean": bounds.estimate,
            "standard_error": float(of_seeds.std(ddof=1)) / seeds**0.5 if seeds > 1 else math.nan,
            "low": bounds.low,
            "high": bounds.high,
            "confidence_level": level,
            "seeds": seeds,
        }
