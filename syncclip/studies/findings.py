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
from syncclip.studies import analysis, answers, outputs, summary
from syncclip.studies.analysis import Evidence
from syncclip.studies.bootstrap import Series
from syncclip.studies.cells import CellRun
from syncclip.studies.features import feature_map
from syncclip.studies.fit import MIN_AMOUNTS
from syncclip.studies.status import StudyStatus
from syncclip.studies.worth import marginal
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
    """What a study's files stand on: the table of its cells, the comparisons, and the cells' answers."""

    table: pd.DataFrame
    pairs: Sequence[outputs.Comparison]
    evidence: Evidence


def write_state(recipe: Recipe, url: str, runs: Sequence[CellRun], dropped: Sequence[int]) -> None:
    """Write recipe.yaml, and study.json: the grid, and how far it is."""
    storage.write_sealed(storage.join(url, outputs.RECIPE), recipe.to_yaml().encode())
    dataset = load_dataset(recipe.dataset)
    settings, synthetic = recipe.study, recipe.training.synthetic
    state = outputs.StudyState(
        name=recipe.name,
        dataset=dataset.name,
        classnames=dataset.classnames,
        base=len(dataset.base),
        split=recipe.evaluation.split,
        synthetic=synthetic if isinstance(synthetic, str) else None,
        focus=settings.focus_arm.name,
        arms=[outputs.ArmState(arm.name, arm.method, arm.data) for arm in settings.arms],
        images_per_class=settings.amounts,
        dropped=list(dropped),
        seeds=settings.seeds,
        cells=[
            outputs.CellState(
                run.cell.name, run.cell.arm.name, run.cell.images_per_class, run.cell.seed, run.status, run.error
            )
            for run in runs
        ],
    )
    outputs.write_json(storage.join(url, outputs.STATE), state)


def cell_table(runs: Sequence[CellRun], split: str) -> pd.DataFrame:
    """One row for each finished cell; see `outputs` for the columns."""
    columns = ["cell", "arm", "method", "data", "images_per_class", "seed", "split", *SCORES, "seconds", "hash"]
    rows = []
    for run in runs:
        if run.status == "done":
            cell, arm, results = run.cell, run.cell.arm, run.results
            rows.append(
                {
                    "cell": cell.name,
                    "arm": arm.name,
                    "method": arm.method,
                    "data": arm.data if arm.trained else "none",
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
    recipe: Recipe, url: str, runs: Sequence[CellRun], synthetic: SyntheticSet | None, work: StudyStatus
) -> Findings:
    """Write the findings of the finished cells; repeating it writes the same bytes, but for the cost.

    Args:
        recipe: of the study.
        url: its folder.
        runs: all cells.
        synthetic: the set, None where no arm learns from one.
        work: what running the cells took this time.
    """
    settings, split = recipe.study, recipe.evaluation.split
    table = cell_table(runs, split)
    storage.write_table(storage.join(url, outputs.TABLE), table)
    finished = [(run.cell, run.url) for run in runs if run.status == "done"]
    evidence = analysis.gather(finished, settings.arms, len(load_dataset(recipe.dataset).base))
    found = analysis.series(evidence, settings)
    fits = analysis.fits(found, settings, split, shares_seen(runs))
    outputs.write_json(storage.join(url, outputs.FIT), fits)
    answers.write(evidence, url)
    pairs = analysis.comparisons(evidence, settings)
    outputs.write_json(storage.join(url, outputs.COMPARISONS), pairs)
    if synthetic is not None:
        _write_shift(recipe, url, runs, synthetic)
    before = outputs.read_cost(url).synthesis
    cost = outputs.Cost(_synthesis_cost(synthetic, before), training_cost(url, runs, work))
    outputs.write_json(storage.join(url, outputs.COST), cost)
    classes, focus = len(load_dataset(recipe.dataset).classnames), found.get(settings.focus_arm.name, {})
    worth = worth_of(recipe, evidence, focus, cost.synthesis, classes)
    outputs.write_json(storage.join(url, outputs.WORTH), worth)
    text = summary.markdown(recipe, table, fits.curves, pairs)
    storage.write_sealed(storage.join(url, outputs.TABLES), text.encode())
    return Findings(table, pairs, evidence)


def shares_seen(runs: Sequence[CellRun]) -> dict[str, float]:
    """Arm -> mean share of the synthetic images that its finished runs at the largest amount have shown."""
    shares: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        if run.status == "done" and run.cell.images_per_class and run.results.get("seen") is not None:
            of_arm = shares.setdefault(run.cell.arm.name, {})
            of_arm.setdefault(run.cell.images_per_class, []).append(run.results["seen"])
    return {arm: fmean(of_arm[max(of_arm)]) for arm, of_arm in shares.items()}


def worth_of(
    recipe: Recipe,
    evidence: analysis.Evidence,
    focus: Mapping[str, Series],
    synthesis: outputs.SynthesisCost | None,
    classes: int,
) -> outputs.Worth:
    """What the focus arm's images are worth: in points per hour of generation, where the speed is known, and in
    real images, where arms with several numbers of shots show it."""
    settings = recipe.study
    an_hour = 3600 * (synthesis.images_per_second or 0.0) if synthesis else 0.0
    return outputs.Worth(
        arm=settings.focus_arm.name,
        level=settings.level,
        images_per_hour=an_hour or None,
        marginal={
            metric: marginal(one, an_hour, classes, settings.level)
            for metric, one in focus.items()
            if an_hour and len(one.amounts) >= MIN_AMOUNTS
        },
        exchange=analysis.exchanges(evidence, settings, recipe.dataset.shots),
    )


def _write_shift(recipe: Recipe, url: str, runs: Sequence[CellRun], synthetic: SyntheticSet) -> None:
    """Map the focus arm's first seed at its largest amount; what was mapped already is not mapped again."""
    focus = recipe.study.focus_arm.name
    fit = [run for run in runs if run.status == "done" and run.cell.arm.name == focus and run.cell.arm.synthetic]
    if not fit:
        return
    run = max(fit, key=lambda one: (one.cell.images_per_class or 0, -recipe.study.seeds.index(one.cell.seed or 0)))
    key = digest([run.folder.recipe_hash, recipe.evaluation.split, recipe.study.map_images, synthetic.images_per_class])
    place, table_place = (storage.join(url, name) for name in (outputs.SHIFT, outputs.FEATURES))
    if storage.exists(place) and storage.exists(table_place) and outputs.read_json(place).get("key") == key:
        return
    shifts, table = feature_map(run.recipe, run.url, synthetic.url, recipe.study.map_images)
    counts = table[table["model"] == "frozen"]["domain"].value_counts()
    storage.write_table(table_place, table)
    outputs.write_json(
        place,
        outputs.StudyShift(
            cell=run.cell.name,
            arm=focus,
            images_per_class=run.cell.images_per_class,
            seed=run.cell.seed,
            split=recipe.evaluation.split,
            images={str(domain): int(count) for domain, count in counts.items()},
            key=key,
            **shifts,
        ),
    )


def training_cost(url: str, runs: Sequence[CellRun], work: StudyStatus) -> outputs.TrainingCost:
    """What the cells took. Wall time and busy share are those of the calls that did the work, added up."""
    seconds = [run.seconds or 0.0 for run in runs if run.status == "done"]
    old = outputs.read_cost(url).training
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
