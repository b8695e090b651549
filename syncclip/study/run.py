"""A study from beginning to end: synthetic set, cells, findings, report. One function, for the command and the job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from syncclip import jobs, storage
from syncclip.recipe import Recipe
from syncclip.settings import UserError
from syncclip.study import findings, outputs, summary
from syncclip.study.cells import prepare, run_cells
from syncclip.study.findings import SyntheticSet
from syncclip.study.grid import capped, cells
from syncclip.synthesis.imported import read_set
from syncclip.synthesis.plan import PLAN_NAME


@dataclass(frozen=True)
class Study:
    """A finished study: where it lies, and its table (see `outputs`)."""

    url: str
    table: pd.DataFrame


def study(recipe: Recipe, out: str | None = None) -> Study:
    """Run the grid of a recipe and write everything that it shows; see `outputs` for the files.

    The synthetic set is drawn first where it is missing or too small, then the cells run, then the findings and the
    report are written. Killed at any time, the same call goes on: shards and cells that are done are not done again.
    A seed, an amount or an arm that is added later only runs its own cells.

    Args:
        recipe: its sections `study`, `evaluation` and those that a run needs.
        out: folder or URL of the study; by default `<storage.root>/<name>/study`.

    Raises:
        UserError: a cell's folder holds another recipe's run, the set is another one, the cluster can't hold a cell;
            or,
            after everything else was written, some cells failed: the sentence names them.
    """
    storage.configure(recipe.storage.options)
    url = folder_of(recipe, out)
    synthetic = ensure_set(recipe, url if out else None)
    recipe, dropped = with_amounts(recipe, synthetic)
    runs = prepare(recipe, cells(recipe.study), url, synthetic.url if synthetic else None)
    storage.write_bytes(storage.join(url, outputs.RECIPE), recipe.to_yaml().encode())
    findings.write_state(recipe, url, runs, dropped)
    runs, work = run_cells(runs, recipe.study, out=url)
    findings.write_state(recipe, url, runs, dropped)
    table, pairs = findings.write(recipe, url, runs, synthetic, work)
    if len(table):
        _write_report(url)
        summary.show(recipe, url, table, pairs)
    if failed := {run.cell.name: run.error or "" for run in runs if run.status == "failed"}:
        raise UserError(failures(failed, len(runs), url))
    return Study(url, table)


def folder_of(recipe: Recipe, out: str | None = None) -> str:
    """Where a recipe's study lies."""
    return jobs.absolute(out or storage.join(recipe.folder, "study"))


def ensure_set(recipe: Recipe, out: str | None) -> SyntheticSet | None:
    """The synthetic set for the study's largest amount: the one that the recipe names, else drawn where it is missing.

    Args:
        out: the study's folder where one was given: a set in it, or none elsewhere, means that it is kept there.

    Returns:
        None where no arm learns from synthetic pictures.
    """
    settings = recipe.study
    if not any(arm.synthetic for arm in settings.arms):
        return None
    if recipe.training.synthetic is not None:
        url = jobs.find_synthetic(recipe)
        plan = read_set(url)
        assert plan is not None, "find_synthetic only names folders with a set"
        return SyntheticSet(url, plan.images_per_class)
    place = storage.join(recipe.folder, "synthetic")
    if out is not None:
        beside = storage.join(out, "synthetic")
        if storage.exists(storage.join(beside, PLAN_NAME)) or not storage.exists(storage.join(place, PLAN_NAME)):
            place = beside
    drawn = jobs.synthesise(recipe.with_values({"synthesis.images_per_class": settings.amounts[-1]}), place)
    work = drawn.work
    took = (work.seconds, work.busy) if work.images else (None, None)
    return SyntheticSet(drawn.url, settings.amounts[-1], *took)


def with_amounts(recipe: Recipe, synthetic: SyntheticSet | None) -> tuple[Recipe, list[int]]:
    """The recipe with the set written into it and the amounts cut to what it holds; and the amounts that fell away."""
    if synthetic is None:
        return recipe, []
    kept = capped(recipe.study.amounts, synthetic.images_per_class)
    values = {"training.synthetic": synthetic.url, "study.images_per_class": kept}
    return recipe.with_values(values), [n for n in recipe.study.amounts if n not in kept]


def _write_report(url: str) -> None:
    from syncclip.study.report import report  # pandas and jinja2 take a second to import

    report(url)


def failures(failed: Mapping[str, str], total: int, url: str) -> str:
    """What to tell of cells that failed, given with their reasons."""
    name, reason = next(iter(failed.items()))
    others = f" (others: {', '.join(list(failed)[1:6])}{', …' if len(failed) > 6 else ''})" if len(failed) > 1 else ""
    return (
        f"{len(failed)} of {total} cells failed in {url}; {name}: {reason}{others}; the same command tries them again"
    )
