"""Accuracies of studies and trainings as tables, and paired differences between several of them."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.evaluation.metrics import METRICS
from syncclip.evaluation.predict import RESULTS, read_results
from syncclip.recipe.overrides import as_override
from syncclip.recipe.recipe import NO_TRACE, Recipe
from syncclip.recipe.study import Configuration
from syncclip.runs.classes import read_classes
from syncclip.runs.data import CODE, images_key
from syncclip.runs.resolve import finished_run
from syncclip.storage.urls import absolute
from syncclip.studies import outputs, predictions
from syncclip.studies.analysis import Evidence, Point, gather
from syncclip.studies.grid import Cell
from syncclip.studies.levels_state import read_state
from syncclip.studies.statistics.bootstrap import ACCURACY, Interval, Resampled, differences, interval
from syncclip.training.run_folder import RECORD, Inputs


@dataclass(frozen=True)
class Source:
    """Outcomes of a study or training; `test_images` contains properties that identify the test images.

    `inputs` contains the number and checksum of the files of a training's custom method and data.
    """

    url: str
    kind: Literal["study", "training"]
    recipe: Recipe
    evidence: Evidence
    test_images: Mapping[str, Any]
    inputs: Inputs

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
    inputs: Inputs = {}
    if storage.exists(storage.join(url, outputs.STATE)):
        about = outputs.read_json(storage.join(url, outputs.STATE))
        if finished:
            outputs.check_finished(url, about)
        recipe, evidence, _ = predictions.read_study(url)
    elif storage.exists(storage.join(url, RECORD)):
        (recipe, run), kind = finished_run(url), "training"
        inputs = run.inputs
        about = read_classes(run).model_dump() | read_results(run.path(RESULTS), run.owner)
        configuration = Configuration(method=recipe.training.method, data=recipe.training.data)
        n = recipe.training.images_per_class if configuration.synthetic else None
        # Without a seed, any two trainings can be paired by their test images.
        evidence = gather([(Cell(configuration, n, None), run)], [configuration], about["base_count"])
    else:
        fix = "no study or training; pass a folder written by `syncclip study` or `syncclip train`"
        raise storage.wrong_folder(folder, "a study or run", fix)
    if not evidence.cells:
        raise UserError(f"{url}: no training run is finished; run the study again")
    images = {key: about[key] for key in ("dataset", "split", "classnames")}
    images |= {"split_seed": recipe.dataset.split_seed, "resize": recipe.dataset.resize}
    images["labels"] = [part.label.tolist() for part in next(iter(evidence.cells.values()))]
    images["files"] = [inputs.get(images_key(about["split"]))]
    return Source(url, kind, recipe, evidence, images, inputs)


def results(folder: str) -> pd.DataFrame:
    """Return the accuracies of a study or training, with standard errors and confidence intervals.

    Args:
        folder: path or URL of the study or training. For a suite, accuracies are averaged over its datasets.

    Returns:
        One row per configuration, number of images and metric. `dataset` and `split` are those of the test images;
        `configuration`, `method`, `data` and `images_per_class` (missing without synthetic images) describe the
        training; `metric` is a key such as `novel`. `mean` and `standard_error` are over `seeds` seeds, in per cent;
        `low` and `high` are the confidence interval over seeds and classes at `confidence_level`.

    Raises:
        UserError: there is no study or training, it has no results yet, or a file is corrupt.

    Examples:
        >>> from syncclip import results
        >>> frame = results("runs/study")
        >>> frame.query("configuration == 'ivlp-both' and metric == 'novel'")["images_per_class"].tolist()
        [1, 2]
    """
    source = read_source(folder)
    evidence, resamples = source.evidence, source.recipe.study.resamples
    rows: list[dict[str, Any]] = []
    for point in source.points:
        rows += accuracies(source, point, evidence.resampled(point, evidence.seeds([point]), "classes", resamples))
    return pd.DataFrame(rows).astype({"images_per_class": "Int64"})


def accuracies(source: Source, point: Point, resampled: Resampled) -> Iterator[dict[str, Any]]:
    """Yield the rows of `results` at a point, by metric."""
    (configuration, n), level = point, source.recipe.study.confidence_level
    for metric, (of_seeds, values) in resampled.items():
        bounds, seeds = interval(of_seeds.mean(), values, level, ACCURACY), len(of_seeds)
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


def compare(*folders: str) -> pd.DataFrame:
    """Compare the accuracies of trainings or studies with those of the first folder.

    Trainings may differ in method and data. Studies are compared at each configuration and number of images that all of
    them contain, over the seeds that they share.

    Args:
        folders: paths or URLs of at least two trainings, or of at least two studies.

    Returns:
        One row per metric, configuration, number of images and folder, with the columns of `results` and these:
        `folder`, as passed; `settings`, the overrides in which the folders differ, one per line; `difference` to the
        first folder in percentage points; `difference_low` and `difference_high`, its paired confidence interval over
        seeds and classes; and `reason`, which states why an interval is impossible, such as different test images, and
        is empty if there is one.

    Raises:
        UserError: fewer than two folders, a study and a training, unfinished runs, or no common configuration.

    Examples:
        >>> from syncclip import compare
        >>> compare("runs/first", "runs/first").query("metric == 'novel'")["difference"].tolist()
        [0.0, 0.0]
    """
    if len(folders) < 2:
        raise UserError("compare requires at least two folders: several trainings, or several studies")
    sources = [read_source(folder, finished=True) for folder in folders]
    kinds = {source.kind: source.url for source in sources}
    if len(kinds) > 1:
        raise UserError(
            f"{kinds['study']} is a study, but {kinds['training']} is a training; pass several folders of one kind"
        )
    aligned = [
        {(each.name, n) if "study" in kinds else None: (each, n) for each, n in source.points} for source in sources
    ]
    shared = [key for key in aligned[0] if all(key in points for points in aligned)]
    if not shared:
        raise UserError("the studies share no configuration at the same number of images; set the same `name` in both")
    settings = _differing_settings(sources, {key[0] for key in shared if key})
    different = [_different_images(sources[0], source) for source in sources]
    resamples, level, rows = sources[0].recipe.study.resamples, sources[0].recipe.study.confidence_level, []
    for key in shared:
        pairs = [(source.evidence, points[key]) for source, points in zip(sources, aligned, strict=True)]
        seeds = [evidence.seeds([point]) for evidence, point in pairs]
        common = [seed for seed in seeds[0] if all(seed in own for own in seeds)]
        metrics = [
            evidence.resampled(point, common or own, "classes", resamples)
            for (evidence, point), own in zip(pairs, seeds, strict=True)
        ]
        for number, source in enumerate(sources):
            reason = different[number] or ("" if common else "no common seed")
            paired = {} if reason else differences([(metrics[number], metrics[0])])
            for row in accuracies(source, aligned[number][key], metrics[number]):
                bounds = Interval(row["mean"] - metrics[0][row["metric"]][0].mean(), math.nan, math.nan)
                bounds = paired[row["metric"]].average(level) if paired else bounds
                row |= {"folder": folders[number], "settings": settings[number], "difference": bounds.estimate}
                rows.append(row | {"difference_low": bounds.low, "difference_high": bounds.high, "reason": reason})
    frame = pd.DataFrame(rows).astype({"images_per_class": "Int64"})
    return frame.sort_values("metric", key=lambda names: names.map(METRICS.index), kind="stable", ignore_index=True)


def _differing_settings(sources: Sequence[Source], names: Collection[str]) -> list[str]:
    """Return the settings in which sources differ, as one override per line.

    Settings in other columns (method, data, number of images), and settings that affect no results, are omitted, as are
    overrides of a study's configurations without results in `names`.
    """
    used = [dict(_settings(source, names)) for source in sources]
    keys = dict.fromkeys(key for values in used for key in values)
    differing = [key for key in keys if len({json.dumps(values[key]) for values in used if key in values}) > 1]
    return ["\n".join(as_override(key, each[key], Recipe) for key in differing if key in each) for each in used]


def _settings(source: Source, names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield the key and value of each setting that affects results, with those of the methods in use."""
    recipe, omitted = source.recipe, {*NO_TRACE, "method", "data", "images_per_class"} - {"synthetic", "teacher"}
    methods = dict.fromkeys(each.method for each in source.evidence.configurations if each.trained)
    sections = {name: getattr(recipe, name) for name in ("dataset", "backbone", "evaluation")}
    sections |= {"training": recipe.training} if methods else {}
    for name in methods:
        key = name if name in type(recipe.methods).model_fields else "custom"
        sections[f"methods.{key}"] = recipe.methods.of(name)
    if CODE in source.inputs:
        yield CODE, source.inputs[CODE][1]
    values = [(name, section.model_dump(mode="json")) for name, section in sections.items()]
    for key, value in values:  # grows by the content of sections
        if isinstance(value, dict):
            values.extend((f"{key}.{name}", inner) for name, inner in value.items())
        elif key.removeprefix("training.") not in omitted:
            yield key, value
    for configuration in recipe.study.configurations if source.kind == "study" else []:
        if any(each.name in names for each in configuration.evaluated.values()):
            yield f"{configuration.name}.overrides", configuration.overrides


def _different_images(first: Source, other: Source) -> str:
    """Describe the first property in which the test images of two sources differ; "" if they are the same."""
    for name, value in first.test_images.items():
        theirs = other.test_images[name]
        if value != theirs and [None] not in (value, theirs):  # unknown in studies
            return f"different test images ({name}{'' if isinstance(value, list) else f': {value} and {theirs}'})"
    return ""
