"""Studies that are repeated with several pretrained tags of the CLIP model, and the map of gains over these levels.

The parent folder contains one ordinary study per tag, the synthetic images that they share, and the map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from syncclip import jobs, storage
from syncclip.clip.backbone import EMBEDDED, SCHEMAS
from syncclip.core.settings import UserError
from syncclip.core.text import coverage, markdown_grid, signed
from syncclip.evaluation.metrics import METRIC_HEADINGS, legend
from syncclip.recipe.recipe import Recipe, digest
from syncclip.runs import resolve
from syncclip.runs.build import ModelCache
from syncclip.runtime.progress import print_message
from syncclip.studies import gain_map, outputs, predictions
from syncclip.studies import run as single
from syncclip.studies.analysis import Evidence
from syncclip.studies.cells import cell_recipe, check_configurations
from syncclip.studies.gain_map import MapCell, MapSummary
from syncclip.studies.grid import Cell
from syncclip.studies.levels_state import LevelsState, read_state
from syncclip.studies.name_knowledge import DatasetKnowledge, knowledge_key, measure
from syncclip.studies.predictions import Recomputed
from syncclip.studies.run import Study, by_dataset, folder_of
from syncclip.synthetic_sets.imported import read_set
from syncclip.training.settings import SCHEDULES

SYNTHETIC = "synthetic"
"""Subfolder with the synthetic images that all levels share."""
FILES = outputs.LEVELS, outputs.RECIPE, outputs.NAME_KNOWLEDGE, outputs.MAP, outputs.MAP_CELLS, outputs.TABLES
"""Files in the parent folder."""

Knowledge = dict[str, dict[str, DatasetKnowledge]]
"""Tag -> dataset ("" for a single dataset) -> name knowledge."""


def study(recipe: Recipe, out: str | None = None) -> Study:
    """Run the study of a recipe and write its results; for a suite, write results for each dataset and their average.

    Missing synthetic images are generated first. To resume a study, repeat the call: finished shards and runs are kept,
    and only missing runs are executed, such as those for newly added seeds, numbers of images or configurations.

    With `study.pretrained`, the study is repeated with each tag in a subfolder, on the same synthetic images, and the
    folder contains the map of gains. Levels from earlier calls are kept.

    Args:
        recipe: recipe with a `study` section.
        out: folder or URL of the study; by default `<storage.root>/<name>/study`.

    Returns:
        The study; with `study.pretrained`, its table has a column with the tag, and its comparisons are empty.

    Raises:
        UserError: a configuration is invalid, real images are missing, the cluster is too small for a run, or a run
            folder contains a run with a different recipe or synthetic dataset; or the levels differ in more than the
            CLIP model. Failed runs do not stop the study; `Study.check` raises an error for them.

    Examples:
        >>> from syncclip import Recipe, study
        >>> configurations = "study.configurations=[{method: zeroshot}, {method: ivlp, data: both}]"
        >>> grid = ["study.images_per_class=[1, 2]", "study.seeds=[1, 2]", "study.reference=ivlp-both"]
        >>> values = [configurations, *grid, "training.epochs=2", "training.synthetic=runs/set"]
        >>> done = study(Recipe.load("travel", values), "runs/study")
        >>> done.cells, done.failed, sorted(done.table["configuration"].unique())
        (5, {}, ['ivlp-both', 'zeroshot'])
    """
    if not recipe.study.pretrained:
        return single.study(recipe, out)
    check(recipe)
    storage.configure(recipe.storage.options)
    recipes = by_dataset(recipe)
    for of_dataset in recipes.values():
        single.check_data(of_dataset, of_dataset.evaluation.split)
    url = folder_of(recipe, out)
    if storage.exists(storage.join(url, outputs.STATE)):
        raise UserError(f"{url} contains a study without study.pretrained; use a new folder")
    with storage.lock(url, "study"):
        state = _with_synthetic(recipe, url, _merged(recipe, recipes, url))
        knowledge = _measured_knowledge(recipe, url, state)
        recipe = recipe.with_values({"training.synthetic": _shared_images(recipe, recipes, url, state.pretrained[0])})
        state = _with_synthetic(recipe, url, state)
        outputs.write_json(storage.join(url, outputs.NAME_KNOWLEDGE), knowledge, state.owner)
        _write_state(recipe, url, state)
        studies = {}
        for tag in recipe.study.pretrained:
            print_message(f"pretrained tag {tag}")
            studies[tag] = single.study(level_recipe(recipe, tag), storage.join(url, tag))
        write_map(url, state)
        return Study(
            url,
            pd.concat([done.table.assign(pretrained=tag) for tag, done in studies.items()], ignore_index=True),
            [],
            {f"{tag} {name}": error for tag, done in studies.items() for name, error in done.failed.items()},
            sum(done.cells for done in studies.values()),
        )


def check(recipe: Recipe) -> None:
    """Raise a `UserError` if the recipe's study cannot be repeated with several pretrained tags."""
    check_configurations(recipe)
    name = recipe.backbone.name
    if name != EMBEDDED and (name.startswith(SCHEMAS) or Path(name).is_dir()):
        raise UserError(
            f"study.pretrained: the CLIP model {name!r} has no pretrained tags; set backbone.name to an open_clip "
            "model, or remove study.pretrained"
        )
    if reserved := {SYNTHETIC, outputs.CELLS} & {*recipe.study.pretrained}:
        raise UserError(f"study.pretrained: {reserved.pop()!r} is a reserved subfolder name; use a different tag")


def level_recipe(recipe: Recipe, tag: str) -> Recipe:
    """Return the recipe of the study of one level."""
    return recipe.with_values({"backbone.pretrained": tag, "study.pretrained": []})


def _merged(recipe: Recipe, recipes: Mapping[str, Recipe], url: str) -> LevelsState:
    """Add the recipe's tags to the levels in the folder; raise a `UserError` if other settings differ."""
    state = LevelsState(
        name=recipe.name,
        dataset=recipe.dataset.name,
        split=recipe.evaluation.split,
        datasets=tuple(name for name in recipes if name),
        pretrained=tuple(recipe.study.pretrained),
        configurations={
            configuration.name: digest(
                [
                    resolve.with_absolute_paths(cell_recipe(part, Cell(configuration, None, 0), None))
                    .with_values({"backbone.pretrained": None})
                    .hash
                    for part in recipes.values()
                ]
            )
            for configuration in recipe.study.configurations
        },
    )
    stored = read_state(url)
    if stored is None:
        return state
    changed = [key for key in ("name", "dataset", "split", "datasets") if getattr(stored, key) != getattr(state, key)]
    changed += [
        f"configuration {name!r}"
        for name, settings in state.configurations.items()
        if stored.configurations.get(name, settings) != settings
    ]
    if changed:
        raise UserError(
            f"{url} contains levels with different settings ({', '.join(changed)}); restore these settings, or use a "
            "new folder"
        )
    added = [tag for tag in state.pretrained if tag not in stored.pretrained]
    values = {"pretrained": (*stored.pretrained, *added), "synthetic": stored.synthetic}
    return state.model_copy(update={**values, "configurations": {**stored.configurations, **state.configurations}})


def _write_state(recipe: Recipe, url: str, state: LevelsState) -> None:
    """Write recipe.yaml, with the tags of all levels, and levels.json.

    These files are written only after all checks pass, because later calls must match them; a rejected call leaves them
    unchanged.
    """
    text = recipe.with_values({"study.pretrained": list(state.pretrained)}).to_yaml()
    storage.write_with_checksum(storage.join(url, outputs.RECIPE), text.encode(), owner=state.owner)
    storage.write_document(storage.join(url, outputs.LEVELS), state, state.owner)


def _shared_images(recipe: Recipe, recipes: Mapping[str, Recipe], url: str, scorer: str) -> object:
    """Generate missing synthetic images, unless the recipe specifies a dataset; return `training.synthetic`.

    Args:
        scorer: tag of the CLIP model for synthesis filters and quality measurements.
    """
    specified = recipe.training.synthetic
    if specified is not None or not any(configuration.synthetic for configuration in recipe.study.configurations):
        return specified
    folder = storage.join(url, SYNTHETIC)
    for name, of_dataset in recipes.items():
        values = {"backbone.pretrained": scorer, "synthesis.images_per_class": recipe.study.amounts[-1]}
        jobs.synth(of_dataset.with_values(values), storage.join(folder, name) if name else folder)
    return folder


def _with_synthetic(recipe: Recipe, url: str, state: LevelsState) -> LevelsState:
    """Record the owners of the synthetic datasets; raise a `UserError` if they differ from those of other levels."""
    if recipe.training.synthetic is None:
        return state
    plans = [read_set(resolve.find_synthetic(of_dataset)) for of_dataset in by_dataset(recipe).values()]
    owners = tuple(plan.owner for plan in plans if plan is not None)
    if state.synthetic not in ((), owners):
        raise UserError(
            f"{url}: training.synthetic differs from the synthetic images of the other levels; use the same images, or "
            "a new folder"
        )
    return state.model_copy(update={"synthetic": owners})


def _measured_knowledge(recipe: Recipe, url: str, state: LevelsState) -> Knowledge:
    """Return the stored name knowledge, with missing or outdated measurements for the recipe's tags updated.

    Measuring a new tag loads its CLIP model, so an unavailable model raises an error before training.
    """
    knowledge = read_knowledge(url, state.owner)
    for tag in recipe.study.pretrained:
        cache, before = ModelCache(), knowledge.get(tag, {})
        knowledge[tag] = {
            name: before[name] if name in before and before[name].key == knowledge_key(part) else measure(part, cache)
            for name, part in by_dataset(level_recipe(recipe, tag)).items()
        }
    return knowledge


def read_knowledge(url: str, owner: str) -> Knowledge:
    """Read name_knowledge.json; return {} if it does not exist."""
    path = storage.join(url, outputs.NAME_KNOWLEDGE)
    return TypeAdapter(Knowledge).validate_json(storage.read_verified(path, owner)) if storage.exists(path) else {}


def _compute(url: str, state: LevelsState) -> tuple[MapSummary, list[MapCell]]:
    """Compute the map from the predictions and the name knowledge of all levels."""
    storage.read_verified(storage.join(url, outputs.RECIPE), state.owner)
    recipe = Recipe.load(storage.join(url, outputs.RECIPE), own=False)
    levels = {
        tag: predictions.read_study(storage.join(url, tag))[1]
        for tag in state.pretrained
        if storage.exists(storage.join(url, tag, outputs.PREDICTIONS))
    }
    datasets = {
        tag: {name: each.ratio for name, each in parts.items()}
        for tag, parts in read_knowledge(url, state.owner).items()
        if tag in levels
    }
    knowledge = {tag: sum(ratios.values()) / len(ratios) for tag, ratios in datasets.items()}
    settings = recipe.study
    summary = MapSummary(
        confidence_level=settings.confidence_level,
        resamples=settings.resamples,
        split=state.split,
        reference=settings.reference_configuration.name,
        levels=knowledge,
        datasets=datasets,
        names={each.name: (each.method, each.data) for level in levels.values() for each in level.configurations},
        novel_classes=max((_novel_classes(level) for level in levels.values()), default=0),
        epochs_over=recipe.training.epochs_over,
        trends=gain_map.trends(levels, knowledge, settings),
    )
    return summary, gain_map.map_cells(levels, settings, state.datasets)


def _novel_classes(evidence: Evidence) -> int:
    """Return the number of novel classes with test images, summed over the datasets."""
    parts = next(iter(evidence.cells.values()), ())
    return sum(len(np.unique(part.label[part.novel])) for part in parts)


def write_map(url: str, state: LevelsState) -> None:
    """Write the map, its tables and the contents file of the parent folder."""
    summary, cells = _compute(url, state)
    storage.write_table(storage.join(url, outputs.MAP_CELLS), gain_map.table(cells), state.owner)
    outputs.write_json(storage.join(url, outputs.MAP), summary, state.owner)
    text = markdown(state.name, summary, cells)
    storage.write_with_checksum(storage.join(url, outputs.TABLES), text.encode(), owner=state.owner)
    storage.require(url, FILES)
    storage.write_contents(url, state.owner)


def markdown(name: str, summary: MapSummary, cells: list[MapCell]) -> str:
    """Format the name knowledge and the average gains as Markdown."""
    levels = sorted(summary.levels, key=summary.levels.__getitem__)
    knowledge = [[tag, f"{summary.levels[tag]:.2f}"] for tag in levels]
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for cell in cells:
        if not cell.dataset and cell.baseline:
            key = cell.configuration, gain_map.number_label(cell), cell.baseline, METRIC_HEADINGS[cell.metric]
            rows.setdefault(key, {})[cell.pretrained] = f"{signed(cell.gain)} [{signed(cell.low, cell.high)}]"
    headings = ["configuration", "images per class", "baseline", "metric", *levels]
    grid = [[*key, *(gains.get(tag, "") for tag in levels)] for key, gains in rows.items()]
    parts = [
        f"# {name}",
        "Name knowledge: zero-shot accuracy divided by leave-one-out accuracy of class means, on training images. "
        f"Training: {SCHEDULES[summary.epochs_over]}.",
        markdown_grid(["pretrained", "name knowledge"], knowledge),
        f"Gains over the baseline, points; {coverage(summary.confidence_level)} intervals over seeds and classes.",
        markdown_grid(headings, grid),
    ]
    return "\n\n".join([*parts, f"{legend(parts, '; ')}."]) + "\n"


def recompute(url: str) -> Recomputed:
    """Recompute the studies of all levels and the map, and compare them with the stored values.

    Raises:
        UserError: the folder contains no levels, or a file is missing or corrupt.
    """
    state = read_state(url)
    if state is None:
        raise UserError(f"{url}: {outputs.LEVELS} is missing; use the folder of a study with study.pretrained")
    studies = {
        tag: predictions.recompute(storage.join(url, tag))
        for tag in state.pretrained
        if storage.exists(storage.join(url, tag, outputs.PREDICTIONS))
    }
    summary, cells = _compute(url, state)
    path = storage.join(url, outputs.MAP_CELLS)
    stored = storage.read_table(path, gain_map.columns(), "run the study again", owner=state.owner)
    pairs = {
        outputs.MAP: (outputs.plain(summary), outputs.read_json(storage.join(url, outputs.MAP), state.owner)),
        outputs.MAP_CELLS: (outputs.plain([asdict(cell) for cell in cells]), outputs.plain(stored.to_pylist())),
    }
    numbers, differ = predictions.compare(pairs)
    parts = [each.means.assign(configuration=tag + ": " + each.means["configuration"]) for tag, each in studies.items()]
    return Recomputed(
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(),
        [],
        None,
        None,
        [*(f"{tag}/{message}" for tag, each in studies.items() for message in each.differ), *differ],
        numbers + sum(each.numbers for each in studies.values()),
    )
