"""Write the results of a study: tables, predictions, curves, comparisons, domain shift and cost; see `outputs`."""

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
from syncclip.studies.cells import CellRun, by_domain
from syncclip.studies.features import feature_map
from syncclip.studies.status import StudyStatus
from syncclip.synthesis.plan import read_plan
from syncclip.synthesis.summary import summarise

SCORES = (*METRICS, "ece", "ece_base", "ece_novel")
KEYS = ("cell", "configuration", "method", "data", "images_per_class", "seed", "split")


@dataclass(frozen=True)
class SyntheticSet:
    """Synthetic dataset of a study, with the generation cost of this call; None if no images were generated."""

    url: str
    images_per_class: int
    wall_hours: float | None = None
    busy_share: float | None = None


@dataclass(frozen=True)
class Findings:
    """Results of a study: a table of its runs, their outcomes, and comparisons between configurations."""

    table: pd.DataFrame
    evidence: Evidence
    comparisons: Sequence[outputs.Comparison] = ()


def state_of(recipe: Recipe, runs: Sequence[CellRun], dropped: Sequence[int]) -> outputs.StudyState:
    """Build the content of study.json, which describes a study's grid and progress."""
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
        configurations=[outputs.ConfigurationState(each.name, each.method, each.data) for each in settings.evaluated],
        images_per_class=settings.amounts,
        dropped=list(dropped),
        seeds=settings.seeds,
        cells=[
            outputs.CellState(
                cell=run.cell.name,
                configuration=run.cell.configuration.name,
                images_per_class=run.cell.images_per_class,
                seed=run.cell.seed,
                status=run.status,
                error=run.error,
                hash=run.folder.recipe_hash,
            )
            for run in runs
        ],
    )


def write_state(recipe: Recipe, url: str, state: outputs.StudyState) -> None:
    """Write recipe.yaml and study.json."""
    storage.write_with_checksum(storage.join(url, outputs.RECIPE), recipe.to_yaml().encode(), owner=state.owner)
    outputs.write_json(storage.join(url, outputs.STATE), state, state.owner)


def cell_table(runs: Sequence[CellRun], split: str) -> pd.DataFrame:
    """Return a table of finished runs with `KEYS`, `SCORES` in per cent, duration in seconds, and recipe hash."""
    rows = []
    for run in runs:
        if run.status == "done":
            cell, configuration, results = run.cell, run.cell.configuration, run.results
            data = configuration.data if configuration.trained else "none"
            keys = cell.name, configuration.name, configuration.method, data, cell.images_per_class, cell.seed, split
            rows.append([*keys, *map(results.get, SCORES), run.seconds, run.folder.recipe_hash])
    table = pd.DataFrame(rows, columns=[*KEYS, *SCORES, "seconds", "hash"])
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
    """Write the results of the finished runs; all files except cost.json are deterministic.

    Args:
        synthetic: synthetic dataset, or None if no configuration uses synthetic images.
        work: status of the runs in this call.
        state: content of study.json, which is written last.
    """
    evaluated = by_domain(runs)
    table = cell_table(evaluated, recipe.evaluation.split)
    storage.write_table(storage.join(url, outputs.TABLE), table, state.owner)
    finished = [(run.cell, run.folder) for run in evaluated if run.status == "done"]
    dataset = load_dataset(recipe.dataset)
    evidence = analysis.gather(finished, recipe.study.evaluated, len(dataset.base))
    if synthetic is not None:
        _write_shift(recipe, url, runs, synthetic, state.owner)
    before = outputs.read_cost(url, state.owner)
    cost = outputs.Cost(_synthesis_cost(synthetic, before.synthesis), training_cost(before.training, runs, work))
    findings = Findings(table, evidence)
    return write_conclusions(recipe, url, state, findings, runs, cost, len(dataset.classnames))


def write_conclusions(
    recipe: Recipe,
    url: str,
    state: outputs.StudyState,
    findings: Findings,
    runs: Sequence[CellRun],
    cost: outputs.Cost,
    classes: int,
    datasets: Mapping[str, pd.DataFrame] | None = None,
) -> Findings:
    """Write predictions, curves, comparisons, data efficiency, tables and cost, and finally the state.

    Args:
        findings: results without comparisons.
        runs: runs of the study, on all datasets of a suite.
        classes: number of classes, summed over the datasets of a suite.
        datasets: for a suite, dataset name -> table of the runs on this dataset.

    Returns:
        The findings with comparisons.
    """
    settings, evidence = recipe.study, findings.evidence
    series, comparisons = analysis.series(evidence, settings), analysis.comparisons(evidence, settings)
    fits = analysis.fits(series, settings, recipe.evaluation.split, shares_seen(by_domain(runs)))
    speed = cost.synthesis.images_per_second if cost.synthesis else None
    throughput = 3600 * speed if speed else None
    efficiency = analysis.data_efficiency(evidence, series, settings, recipe.dataset.shots, throughput, classes)
    outputs.write_json(storage.join(url, outputs.FIT), fits, state.owner)
    outputs.write_json(storage.join(url, outputs.COMPARISONS), comparisons, state.owner)
    outputs.write_json(storage.join(url, outputs.COST), cost, state.owner)
    outputs.write_json(storage.join(url, outputs.DATA_EFFICIENCY), efficiency, state.owner)
    predictions.write(evidence, url, state.owner)
    text = summary.markdown(recipe, findings.table, fits.curves, comparisons, datasets)
    storage.write_with_checksum(storage.join(url, outputs.TABLES), text.encode(), owner=state.owner)
    write_state(recipe, url, state)
    storage.write_contents(url, state.owner)
    return Findings(findings.table, evidence, comparisons)


def shares_seen(runs: Sequence[CellRun]) -> dict[str, float]:
    """Return the share of synthetic images used by each configuration, averaged over its runs with the largest n."""
    shares: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        n = run.cell.images_per_class
        if run.status == "done" and n and (seen := run.results.get("seen")) is not None:
            shares.setdefault(run.cell.configuration.name, {}).setdefault(n, []).append(seen)
    return {name: fmean(by_number[max(by_number)]) for name, by_number in shares.items()}


def _write_shift(recipe: Recipe, url: str, runs: Sequence[CellRun], synthetic: SyntheticSet, owner: str) -> None:
    """Measure the reference configuration's domain shift for its first seed and largest number of images.

    An earlier measurement of the same run and images is reused.
    """
    settings = recipe.study
    reference = settings.reference_configuration
    finished = [run for run in runs if run.status == "done" and run.cell.configuration.name == reference.name]
    if not finished or not reference.synthetic:
        return
    run = max(finished, key=lambda run: (run.cell.images_per_class or 0, -settings.seeds.index(run.cell.seed or 0)))
    key = digest([run.folder.recipe_hash, recipe.evaluation.split, settings.map_images, synthetic.images_per_class])
    path, features = storage.join(url, outputs.SHIFT), storage.join(url, outputs.FEATURES)
    if storage.exists(path) and storage.exists(features) and storage.read_owner(features) == storage.identity(key):
        previous = outputs.read_json(path)
        if previous.get("key") == key:
            outputs.write_json(path, previous, owner)  # the owner changes when a study is extended
            return
    shifts, table = feature_map(run.recipe, run.folder, synthetic.url, settings.map_images)
    counts = table[table["model"] == "frozen"]["domain"].value_counts()
    storage.write_table(features, table, storage.identity(key))
    shift = outputs.StudyShift(
        cell=run.cell.name,
        configuration=reference.name,
        images_per_class=run.cell.images_per_class,
        seed=run.cell.seed,
        split=recipe.evaluation.split,
        images={str(domain): int(count) for domain, count in counts.items()},
        key=key,
        **shifts,
    )
    outputs.write_json(path, shift, owner)


def training_cost(before: outputs.TrainingCost, runs: Sequence[CellRun], work: StudyStatus) -> outputs.TrainingCost:
    """Compute the training cost; wall time and utilisation accumulate over all calls that executed runs."""
    seconds = [run.seconds or 0.0 for run in runs if run.status == "done"]
    wall_before = 3600 * (before.wall_hours or 0.0)
    wall = wall_before + work.wall_seconds
    workers = work.workers or before.workers or 0
    busy = wall_before * (before.workers or 0) * (before.busy_share or 0.0) + work.seconds
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
    measured = synthetic if synthetic.wall_hours is not None else before
    return outputs.SynthesisCost(
        images=done.images,
        rejects=done.rejects,
        hours=done.seconds / 3600,
        images_per_second=done.images / done.seconds if done.seconds else None,
        wall_hours=measured.wall_hours if measured else None,
        busy_share=measured.busy_share if measured else None,
    )
