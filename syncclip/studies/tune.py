"""Hyperparameter search for the configurations of a study, on the validation split."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets import load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.recipe.study import Configuration
from syncclip.storage import urls
from syncclip.stream.random_numbers import permutation
from syncclip.studies import outputs
from syncclip.studies.cells import CellRun, check_configurations, run_cells
from syncclip.studies.run import announce, by_dataset, check_data, in_order, parts_of, require_single_model

METRIC = "all_classes_hm"
"""Selection criterion: harmonic mean of base and novel accuracy, with all classes as candidates."""

MOST_COMBINATIONS = 1_000_000
"""Maximum number of combinations in a search space."""


@dataclass(frozen=True)
class Choice:
    """Result of a search: the recipe with the selected values, the content of tuned.json, and the folder's URL."""

    recipe: Recipe
    record: dict[str, Any]
    url: str


def tune(recipe: Recipe, out: str | None = None) -> Choice:
    """Train the combinations in each configuration's `search_space`, and select the best one on validation images.

    All combinations, or a random sample of `study.tune_trials`, are trained, with each of the `tune_seeds` and a fixed
    number of synthetic images. The criterion is the mean of `METRIC` over seeds and datasets; ties go to the first
    combination. To resume a search, repeat the call.

    Args:
        recipe: recipe with a `search_space` in `study.configurations`.
        out: folder or URL for tuned.json (combinations, scores, selected values), recipe.yaml (a study's recipe with
            the selected values) and the training runs; by default `<storage.root>/<name>/tuned`.

    Raises:
        UserError: a search space is missing or invalid, real images are missing, the validation split lacks base or
            novel classes, or a training run failed.

    Examples:
        >>> from syncclip import Recipe, tune
        >>> space = "{methods.ivlp.learning_rate: [0.005, 0.02]}"
        >>> configurations = f"study.configurations=[{{method: ivlp, data: real, search_space: {space}}}]"
        >>> tuned = tune(Recipe.load("travel", [configurations, "training.epochs=2"]), "runs/tuned")
        >>> list(tuned.record["configurations"]["ivlp-real"]["selected"])
        ['methods.ivlp.learning_rate']
    """
    if not any(configuration.search_space for configuration in recipe.study.configurations):
        raise UserError(
            "study.configurations: no configuration has a search space; add one, e.g. "
            "search_space: {training.epochs: [5, 10]}"
        )
    require_single_model(recipe)
    check_configurations(recipe)
    storage.configure(recipe.storage.options)
    for of_dataset in by_dataset(recipe).values():
        check_data(of_dataset, "val")
        _check_splits(of_dataset)
    url = urls.absolute(out or storage.join(recipe.folder, "tuned"))
    with storage.lock(url, "tune"):
        grid, combinations = _grid(recipe)
        recipes, images_per_class = by_dataset(grid), recipe.study.amounts[-1]
        announce("tune", recipes, images_per_class)
        parts = parts_of(recipes, url, out is not None, images_per_class)
        runs, _ = run_cells(in_order(parts), grid.study, "tune")
        if failed := [run for run in runs if run.status == "failed"]:
            raise UserError(f"{len(failed)} training runs failed in {url}; {failed[0].cell.name}: {failed[0].error}")
        record: dict[str, Any] = {
            "split": "val",
            "metric": METRIC,
            "images_per_class": next(iter(parts.values())).recipe.study.amounts[0],
            "seeds": grid.study.seeds,
            "configurations": {name: _best(tried, runs) for name, tried in combinations.items()},
        }
        tuned = _with_selected(recipe, {name: best["selected"] for name, best in record["configurations"].items()})
        owner = storage.identity(tuned.to_yaml())
        outputs.write_json(storage.join(url, outputs.TUNED), record, owner)
        storage.write_with_checksum(storage.join(url, outputs.RECIPE), tuned.to_yaml().encode(), owner=owner)
        storage.require(url, (outputs.TUNED, outputs.RECIPE))
        storage.write_contents(url, owner)
        return Choice(tuned, record, url)


def _check_splits(recipe: Recipe) -> None:
    dataset = load_dataset(recipe.dataset)
    labels = {int(label) for label in dataset.split("val").labels}
    for split, classes in {"base": dataset.base, "novel": dataset.novel}.items():
        if labels.isdisjoint(classes):
            raise UserError(
                f"the tuning metric {METRIC} requires validation images of base and novel classes, but dataset "
                f"{dataset.name!r} has none for its {split} classes; add some"
            )


def combinations_of(
    search_space: Mapping[str, list[Any]], trials: int | None = None, seed: int = 0
) -> dict[int, dict[str, Any]]:
    """Return combinations of values by their number in the grid, whose last key varies fastest.

    Args:
        trials: number of combinations to draw without replacement; by default all. With more trials, the same
            combinations and further ones are drawn.
        seed: seed of the draw.
    """
    if (total := math.prod(map(len, search_space.values()))) > MOST_COMBINATIONS:
        raise UserError(
            f"a search space has {total:,} combinations, but at most {MOST_COMBINATIONS:,} are allowed; remove values"
        )
    grid = list(itertools.product(*search_space.values()))
    drawn = sorted(permutation(total, seed, 0)[:trials].tolist())
    return {number: dict(zip(search_space, grid[number], strict=True)) for number in drawn}


def at_edge(recipe: Recipe, best: Mapping[str, Any]) -> dict[str, str]:
    """Return {key: "smallest" or "largest"} for each selected number at an edge of the values that were tried.

    Edges that are limits of the setting itself are omitted, since no value beyond them can be tried.

    Args:
        best: entry of a configuration in tuned.json.
    """
    edges = {}
    for key, value in best["selected"].items():
        tried = [number for entry in best["search_space"] if _is_number(number := entry["values"][key])]
        if not _is_number(value) or min(tried) == max(tried):
            continue
        for edge, limit, sign in (("smallest", min(tried), -1), ("largest", max(tried), 1)):
            if value == limit:
                beyond = value + sign * (1 if isinstance(value, int) else max(abs(value), 1e-6) * 1e-3)
                with suppress(UserError):
                    recipe.with_values({key: beyond})
                    edges[key] = edge
    return edges


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _grid(recipe: Recipe) -> tuple[Recipe, dict[str, dict[str, dict[str, Any]]]]:
    """Build a study that trains all combinations and evaluates them on the validation split.

    Returns:
        The study's recipe, and {tuned configuration: {combination name: values}}.
    """
    settings = recipe.study
    configurations: list[Configuration] = []
    combinations: dict[str, dict[str, dict[str, Any]]] = {}
    for tuned in settings.configurations:
        search_space = tuned.search_space if tuned.trained else {}
        tried = combinations_of(search_space, settings.tune_trials, settings.tune_seeds[0]) if search_space else {}
        for number, values in tried.items():
            name = f"{tuned.name}-try{number}"
            combinations.setdefault(tuned.name, {})[name] = values
            overrides = {**tuned.overrides, **values}
            configurations.append(Configuration(method=tuned.method, data=tuned.data, name=name, overrides=overrides))
    values = {
        "study.configurations": [configuration.model_dump(mode="json") for configuration in configurations],
        "study.compare": [],
        "study.seeds": settings.tune_seeds,
        "study.images_per_class": [settings.tune_images_per_class or settings.amounts[-1]],
        "evaluation.split": "val",
    }
    return recipe.with_values(values, "study.search_space"), combinations


def _best(tried: Mapping[str, Mapping[str, Any]], runs: Sequence[CellRun]) -> dict[str, Any]:
    """Return the best combination, and all combinations with their scores for each seed, averaged over datasets."""
    entries: list[dict[str, Any]] = []
    for name, values in tried.items():
        by_seed: dict[str, list[float]] = {}
        for run in runs:
            if run.cell.configuration.name == name:
                by_seed.setdefault(str(run.cell.seed), []).append(float(run.results[METRIC]))
        scores = {seed: fmean(by_dataset) for seed, by_dataset in by_seed.items()}
        entries.append({"values": dict(values), METRIC: fmean(scores.values()), "by_seed": scores})
    best = max(entries, key=lambda entry: entry[METRIC])
    return {"selected": best["values"], METRIC: best[METRIC], "search_space": entries}


def _with_selected(recipe: Recipe, selected: Mapping[str, Mapping[str, Any]]) -> Recipe:
    configurations = []
    for configuration in recipe.study.configurations:
        overrides = {**configuration.overrides, **selected.get(configuration.name, {})}
        configurations.append({**configuration.model_dump(mode="json"), "overrides": overrides, "search_space": {}})
    return recipe.with_values({"study.configurations": configurations}, "the selected values")
