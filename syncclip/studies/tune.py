"""Choosing each configuration's settings on the validation split, never on test."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets import load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.recipe.study import Configuration
from syncclip.storage import urls
from syncclip.studies import outputs
from syncclip.studies.cells import CellRun, check_configurations, run_cells
from syncclip.studies.run import announce, by_dataset, check_data, in_order, parts_of

METRIC = "all_classes_hm"
"""What settings are compared by: the open-vocabulary harmonic mean, in which all classes and both halves count."""


@dataclass(frozen=True)
class Choice:
    """What was chosen: the recipe with the chosen values in its configurations, and the record written as
    tuned.json."""

    recipe: Recipe
    record: dict[str, Any]


def tune(recipe: Recipe, out: str | None = None) -> Choice:
    """Try every combination of each configuration's `search_space` and keep the best on validation images.

    Each combination is trained at one amount of synthetic images with the `tune_seeds`, as the cells of a study
    that evaluates on the validation split; the mean over the seeds decides, and of a suite over its datasets; the
    earlier candidate wins a tie. Killed at any time, the same call goes on.

    Args:
        recipe: whose `study.configurations` have `search_space`.
        out: folder or URL; by default `<storage.root>/<name>/choice`. It then holds tuned.json (what was tried, the
            scores, what was chosen), recipe.yaml (the recipe with the chosen values, ready for a study) and the cells.

    Raises:
        UserError: no configuration has candidates, or their settings or the real images are refused, or the
        validation images are
            of one half alone, or a candidate's training failed.

    Examples:
        >>> from syncclip import Recipe, tune
        >>> rates = "{methods.ivlp.learning_rate: [0.005, 0.02]}"
        >>> configurations = f"study.configurations=[{{method: ivlp, data: real, search_space: {rates}}}]"
        >>> tuned = tune(Recipe.load("travel", [configurations, "training.epochs=2"]), "runs/choice")
        >>> list(tuned.record["configurations"]["ivlp-real"]["chosen"])
        ['methods.ivlp.learning_rate']
    """
    settings = recipe.study
    if not any(configuration.search_space for configuration in settings.configurations):
        raise UserError(
            "study.configurations: no configuration has candidates to choose from; give e.g. candidates: "
            "{training.epochs: [5, 10]}"
        )
    check_configurations(recipe)
    storage.configure(recipe.storage.options)
    for one in by_dataset(recipe).values():
        check_data(one, "val")
        _check_halves(one)
    url = urls.absolute(out or storage.join(recipe.folder, "choice"))
    with storage.lease(url, "tune"):
        grid, values = _grid(recipe)
        recipes, amount = by_dataset(grid), recipe.study.amounts[-1]
        announce("tune", recipes, amount)
        parts = parts_of(recipes, url, out is not None, amount)
        runs, _ = run_cells(in_order(parts), grid.study, "tune")
        if failed := [run for run in runs if run.status == "failed"]:
            raise UserError(f"{len(failed)} candidates failed in {url}; {failed[0].cell.name}: {failed[0].error}")
        record: dict[str, Any] = {
            "split": "val",
            "metric": METRIC,
            "images_per_class": next(iter(parts.values())).recipe.study.amounts[0],
            "seeds": grid.study.seeds,
            "configurations": {name: _best(tried, runs) for name, tried in values.items()},
        }
        chosen = _with_choices(recipe, {name: found["chosen"] for name, found in record["configurations"].items()})
        owner = storage.identity(chosen.to_yaml())
        outputs.write_json(storage.join(url, outputs.TUNED), record, owner)
        storage.write_sealed(storage.join(url, outputs.RECIPE), chosen.to_yaml().encode(), owner=owner)
        storage.require(url, (outputs.TUNED, outputs.RECIPE))
        storage.write_contents(url, owner)
        return Choice(chosen, record)


def _check_halves(recipe: Recipe) -> None:
    dataset = load_dataset(recipe.dataset)
    shown = {int(label) for label in dataset.split("val").labels}
    for half, classes in {"base": dataset.base, "novel": dataset.novel}.items():
        if shown.isdisjoint(classes):
            raise UserError(
                f"dataset {dataset.name!r} has no validation image of {half} classes; settings are chosen by the "
                f"harmonic mean of both halves ({METRIC})"
            )


def combinations(candidates: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Every combination of values, the last key varying fastest."""
    return [dict(zip(candidates, values, strict=True)) for values in itertools.product(*candidates.values())]


def _grid(recipe: Recipe) -> tuple[Recipe, dict[str, dict[str, dict[str, Any]]]]:
    """A study of all candidates on the validation split, and {configuration: {candidate's configuration: values}}."""
    settings = recipe.study
    configurations: list[Configuration] = []
    values: dict[str, dict[str, dict[str, Any]]] = {}
    for configuration in settings.configurations:
        if not (configuration.search_space and configuration.trained):
            continue
        for number, tried in enumerate(combinations(configuration.search_space)):
            name = f"{configuration.name}-try{number}"
            values.setdefault(configuration.name, {})[name] = tried
            overrides = {**configuration.overrides, **tried}
            configurations.append(
                Configuration(method=configuration.method, data=configuration.data, name=name, overrides=overrides)
            )
    grid = recipe.with_values(
        {
            "study.configurations": [configuration.model_dump(mode="json") for configuration in configurations],
            "study.seeds": settings.tune_seeds,
            "study.images_per_class": [settings.tune_images_per_class or settings.amounts[-1]],
            "evaluation.split": "val",
        },
        "study.candidates",
    )
    return grid, values


def _best(tried: Mapping[str, Mapping[str, Any]], runs: list[CellRun]) -> dict[str, Any]:
    candidates: list[dict[str, Any]] = []
    for name, values in tried.items():
        by_seed: dict[str, list[float]] = {}  # of a suite, a score for each dataset
        for run in runs:
            if run.cell.configuration.name == name:
                by_seed.setdefault(str(run.cell.seed), []).append(float(run.results[METRIC]))
        scores = {seed: fmean(found) for seed, found in by_seed.items()}
        candidates.append({"values": dict(values), METRIC: fmean(scores.values()), "by_seed": scores})
    best = max(candidates, key=lambda candidate: candidate[METRIC])
    return {"chosen": best["values"], METRIC: best[METRIC], "search_space": candidates}


def _with_choices(recipe: Recipe, chosen: Mapping[str, Mapping[str, Any]]) -> Recipe:
    configurations = []
    for configuration in recipe.study.configurations:
        values = {**configuration.overrides, **chosen.get(configuration.name, {})}
        configurations.append({**configuration.model_dump(mode="json"), "overrides": values, "search_space": {}})
    return recipe.with_values({"study.configurations": configurations}, "the chosen values")
