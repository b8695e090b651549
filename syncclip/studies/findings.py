"""What a study's files hold: from finished cells to tables, curves, comparisons, shift and cost. See `outputs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from syncclip import storage
from syncclip.datasets import load_dataset
from syncclip.evaluation.metrics import METRICS
from syncclip.recipe.recipe import Recipe, digest
from syncclip.studies import analysis, outputs, predictions, summary
from syncclip.studies.analysis import Evidence
from syncclip.studies.cells import CellRun
from syncclip.studies.features import feature_map
from syncclip.studies.status import StudyStatus
from syncclip.synthesis.plan import read_plan
from syncclip.synthesis.summary import summarise

SCORES = (*METRICS, "ece", "ece_base", "ece_novel")


@dataclass(frozen=True)
class SyntheticSet:
    """The set that a study learns from: its place, its images of each class, and what generating it took this time."""

    url: str
    images_per_class: int
    wall_hours: float | None = None
    busy_share: float | None = None


@dataclass(frozen=True)
class Findings:
    """What a study's files stand on: the table of its cells, the cells' answers, and the comparisons."""

    table: pd.DataFrame
    evidence: Evidence
    pairs: Sequence[outputs.Comparison] = ()


def state_of(recipe: Recipe, runs: Sequence[CellRun], dropped: Sequence[int]) -> outputs.StudyState:
    """The grid of a study, and how far it is."""
    dataset = load_dataset(recipe.dataset)
    settings, synthetic = recipe.study, recipe.training.synthetic
    return outputs.StudyState(
        name=recipe.name,
        dataset=dataset.name,
        classnames=dataset.classnames,
        base=len(dataset.base),
        split=recipe.evaluation.split,
        synthetic=synthetic if isinstance(synthetic, str) else None,
        reference=settings.reference_configuration.name,
        configurations=[
            outputs.ConfigurationState(configuration.name, configuration.method, configuration.data)
            for configuration in settings.configurations
        ],
        images_per_class=settings.amounts,
        dropped=list(dropped),
        seeds=settings.seeds,
        cells=[
            outputs.CellState(
                run.cell.name,
                run.cell.configuration.name,
                run.cell.images_per_class,
                run.cell.seed,
                run.status,
                run.error,
                run.folder.recipe_hash,
            )
            for run in runs
        ],
    )


def write_state(recipe: Recipe, url: str, state: outputs.StudyState) -> None:
    """Write recipe.yaml, and study.json."""
    storage.write_sealed(storage.join(url, outputs.RECIPE), recipe.to_yaml().encode(), owner=state.owner)
    outputs.write_json(storage.join(url, outputs.STATE), state, state.owner)


def cell_table(runs: Sequence[CellRun], split: str) -> pd.DataFrame:
    """One row for each finished cell; see `outputs` for the columns."""
    columns = [
        "cell",
        "configuration",
        "method",
        "data",
        "images_per_class",
        "seed",
        "split",
        *SCORES,
        "seconds",
        "hash",
    ]
    rows = []
    for run in runs:
        if run.status == "done":
            cell, configuration, results = run.cell, run.cell.configuration, run.results
            rows.append(
                {
                    "cell": cell.name,
                    "configuration": configuration.name,
                    "method": configuration.method,
                    "data": configuration.data if configuration.trained else "none",
                    "images_per_class": cell.images_per_class,
                    "seed": cell.seed,
                    "split": split,
                    **{name: results.get(name) for name in SCORES},
                    "seconds": run.seconds,
                    "hash": run.folder.recipe_hash,
                }
            )
    table = pd.DataFrame(rows, columns=columns)
    numbers = dict.fromkeys((*SCORES, "seconds"), "float64")
    typed: pd.DataFrame = table.astype({"images_per_class": "Int64", "seed": "Int64", **numbers})
    return typed


def write(
    recipe: Recipe,
    url: str,
    runs: Sequence[CellRun],
    synthetic: SyntheticSet | None,
    work: StudyStatus,
    state: outputs.StudyState,
) -> Findings:
    """Write the findings of the finished cells; repeating it writes the same bytes, but for the cost.

    Args:
        recipe: of the study.
        url: its folder.
        runs: all cells.
        synthetic: the set, None where no configuration learns from one.
        work: what running the cells took this time.
        state: the grid, written last.
    """
    table = cell_table(runs, recipe.evaluation.split)
    storage.write_table(storage.join(url, outputs.TABLE), table, state.owner)
    finished = [(run.cell, run.folder) for run in runs if run.status == "done"]
    dataset = load_dataset(recipe.dataset)
    evidence = analysis.gather(finished, recipe.study.configurations, len(dataset.base))
    if synthetic is not None:
        _write_shift(recipe, url, runs, synthetic, state.owner)
    before = outputs.read_cost(url, state.owner)
    cost = outputs.Cost(_synthesis_cost(synthetic, before.synthesis), training_cost(before.training, runs, work))
    conclusions = Findings(table, evidence), shares_seen(runs), cost, len(dataset.classnames)
    return write_conclusions(recipe, url, state, *conclusions)


def write_conclusions(
    recipe: Recipe,
    url: str,
    state: outputs.StudyState,
    found: Findings,
    seen: Mapping[str, float],
    cost: outputs.Cost,
    classes: int,
    datasets: Mapping[str, pd.DataFrame] | None = None,
) -> Findings:
    """Write the answers and what follows from them: curves, comparisons, worth and tables; the cost; last the state.

    Args:
        state: the grid.
        found: without comparisons.
        seen: see `shares_seen`.
        classes: of the dataset, or of all of a suite's.
        datasets: of a suite the table of each dataset.

    Returns:
        The findings with their comparisons.
    """
    settings, evidence = recipe.study, found.evidence
    series, pairs = analysis.series(evidence, settings), analysis.comparisons(evidence, settings)
    fits = analysis.fits(series, settings, recipe.evaluation.split, seen)
    speed = cost.synthesis.images_per_second if cost.synthesis else None
    worth = analysis.worth(evidence, series, settings, recipe.dataset.shots, 3600 * speed if speed else None, classes)
    for name, value in {
        outputs.FIT: fits,
        outputs.COMPARISONS: pairs,
        outputs.COST: cost,
        outputs.DATA_EFFICIENCY: worth,
    }.items():
        outputs.write_json(storage.join(url, name), value, state.owner)
    predictions.write(evidence, url, state.owner)
    text = summary.markdown(recipe, found.table, fits.curves, pairs, datasets)
    storage.write_sealed(storage.join(url, outputs.TABLES), text.encode(), owner=state.owner)
    write_state(recipe, url, state)
    storage.write_contents(url, state.owner)
    return Findings(found.table, evidence, pairs)


def shares_seen(runs: Sequence[CellRun]) -> dict[str, float]:
    """Configuration -> mean share of the synthetic images that its finished runs at the largest amount have shown."""
    shares: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        if run.status == "done" and run.cell.images_per_class and run.results.get("seen") is not None:
            of_configuration = shares.setdefault(run.cell.configuration.name, {})
            of_configuration.setdefault(run.cell.images_per_class, []).append(run.results["seen"])
    return {
        configuration: fmean(of_configuration[max(of_configuration)])
        for configuration, of_configuration in shares.items()
    }


def _write_shift(recipe: Recipe, url: str, runs: Sequence[CellRun], synthetic: SyntheticSet, owner: str) -> None:
    """Map the focus configuration's first seed at its largest amount; what was mapped already is not mapped again."""
    reference = recipe.study.reference_configuration.name
    fit = [
        run
        for run in runs
        if run.status == "done" and run.cell.configuration.name == reference and run.cell.configuration.synthetic
    ]
    if not fit:
        return
    run = max(fit, key=lambda one: (one.cell.images_per_class or 0, -recipe.study.seeds.index(one.cell.seed or 0)))
    key = digest([run.folder.recipe_hash, recipe.evaluation.split, recipe.study.map_images, synthetic.images_per_class])
    place, table_place = (storage.join(url, name) for name in (outputs.SHIFT, outputs.FEATURES))
    of_shift = storage.identity(key)
    if storage.exists(place) and storage.exists(table_place) and storage.read_owner(table_place) == of_shift:
        earlier = outputs.read_json(place)
        if earlier.get("key") == key:
            outputs.write_json(place, earlier, owner)  # where the study was extended, its identity is another
            return
    shifts, table = feature_map(run.recipe, run.folder, synthetic.url, recipe.study.map_images)
    counts = table[table["model"] == "frozen"]["domain"].value_counts()
    storage.write_table(table_place, table, of_shift)
    outputs.write_json(
        place,
        outputs.StudyShift(
            cell=run.cell.name,
            configuration=reference,
            images_per_class=run.cell.images_per_class,
            seed=run.cell.seed,
            split=recipe.evaluation.split,
            images={str(domain): int(count) for domain, count in counts.items()},
            key=key,
            **shifts,
        ),
        owner,
    )


def training_cost(old: outputs.TrainingCost, runs: Sequence[CellRun], work: StudyStatus) -> outputs.TrainingCost:
    """What the cells took, with what was spent before.

    Wall time and busy share are those of the calls that did the work, added up.
    """
    seconds = [run.seconds or 0.0 for run in runs if run.status == "done"]
    old_wall = 3600 * (old.wall_hours or 0.0)
    wall = old_wall + work.wall_seconds
    workers = work.workers or old.workers or 0
    busy = old_wall * (old.workers or 0) * (old.busy_share or 0.0) + work.seconds
    return outputs.TrainingCost(
        cells=len(seconds),
        hours=sum(seconds) / 3600,
        wall_hours=wall / 3600 if wall else None,
        workers=workers or None,
        busy_share=min(1.0, busy / (wall * workers)) if wall and workers else None,
    )


def _synthesis_cost(
    synthetic: SyntheticSet | None, before: outputs.SynthesisCost | None
) -> outputs.SynthesisCost | None:
    if synthetic is None or (plan := read_plan(synthetic.url)) is None:
        return None
    done = summarise(plan, synthetic.url)
    known = synthetic if synthetic.wall_hours is not None else before
    return outputs.SynthesisCost(
        images=done.images,
        rejects=done.rejects,
        hours=done.seconds / 3600,
        images_per_second=done.images / done.seconds if done.seconds else None,
        wall_hours=known.wall_hours if known else None,
        busy_share=known.busy_share if known else None,
    )
