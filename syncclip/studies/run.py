"""A study from beginning to end: synthetic set, cells, findings. One function, for the command and the job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from syncclip import jobs, storage
from syncclip.core.settings import UserError
from syncclip.core.text import counted, few
from syncclip.datasets import load_dataset, suite_of
from syncclip.datasets.dataset import Split
from syncclip.recipe.recipe import Recipe
from syncclip.runs import resolve
from syncclip.runtime.progress import Progress, say
from syncclip.storage import urls
from syncclip.studies import findings, multi_dataset, outputs
from syncclip.studies.cells import CellRun, check_configurations, prepare, run_cells
from syncclip.studies.findings import Findings, SyntheticSet
from syncclip.studies.grid import capped, cells
from syncclip.studies.multi_dataset import Part
from syncclip.studies.outputs import Comparison
from syncclip.studies.status import StudyStatus
from syncclip.synthesis.plan import PLAN_NAME
from syncclip.synthetic_sets.imported import read_set

SYNTHETIC = "training.synthetic"
TEACHER = "training.teacher"


@dataclass(frozen=True)
class Study:
    """A study that has run: where it lies, its table and comparisons (see `outputs`), and why cells failed, by name."""

    url: str
    table: pd.DataFrame
    comparisons: Sequence[Comparison]
    failed: Mapping[str, str]
    cells: int

    def check(self) -> None:
        """Raise UserError where cells failed; the sentence names them."""
        if self.failed:
            raise UserError(failures(self.failed, self.cells, self.url))


def study(recipe: Recipe, out: str | None = None) -> Study:
    """Run the grid of a recipe and write its findings; see `outputs` for the files.

    The synthetic set is generated first where it is missing or too small, then the cells run, then the findings are
    written; of a suite on each of its datasets, and then for their average. Killed at any time, the same call goes on:
    shards and cells that are done are not done again. A seed, an amount or a configuration that is added later only
    runs its
    own cells.

    Args:
        recipe: its sections `study`, `evaluation` and those that a run needs.
        out: folder or URL of the study; by default `<storage.root>/<name>/study`.

    Raises:
        UserError: a cell's folder holds another recipe's run, the set is another one, or the cluster can't hold a
            cell, or a configuration's settings or the real images are refused. Cells that fail don't end the study:
            `Study.check` reports them.

    Examples:
        >>> from syncclip import Recipe, study
        >>> configurations = "study.configurations=[{method: zeroshot}, {method: ivlp, data: both}]"
        >>> grid = ["study.images_per_class=[1, 2]", "study.seeds=[1, 2]", "study.reference=ivlp-both"]
        >>> values = [configurations, *grid, "training.epochs=2", "training.synthetic=runs/set"]
        >>> done = study(Recipe.load("travel", values), "runs/study")
        >>> done.cells, done.failed, sorted(done.table["configuration"].unique())
        (5, {}, ['ivlp-both', 'zeroshot'])
    """
    check_configurations(recipe)
    storage.configure(recipe.storage.options)
    recipes = by_dataset(recipe)
    for one in recipes.values():
        check_data(one, one.evaluation.split)
    url = folder_of(recipe, out)
    with storage.lease(url, "study"):
        announce("study", recipes)
        parts = parts_of(recipes, url, out is not None)
        for part in parts.values():
            _begin(part.recipe, part.url, part.state)
        state = parts[""].state if "" in parts else multi_dataset.state_of(recipe, parts)
        _begin(recipe, url, state)
        ended, work = run_cells(in_order(parts), recipe.study, out=url, owner=state.owner)
        parts = with_ended(parts, ended)
        found = _write(recipe, url, parts, work)
        failed = {
            f"{name} {run.cell.name}".strip(): run.error or ""
            for name, part in parts.items()
            for run in part.runs
            if run.status == "failed"
        }
        return Study(url, found.table, found.pairs, failed, len(ended))


def _begin(recipe: Recipe, url: str, state: outputs.StudyState) -> None:
    """Write the grid of a new study; that of one that is extended stays with its findings until there are new ones."""
    if not storage.exists(storage.join(url, outputs.STATE)):
        findings.write_state(recipe, url, state)


def by_dataset(recipe: Recipe) -> dict[str, Recipe]:
    """Of a suite each dataset's name in it -> its recipe, which keeps its set in a folder of its own; else "" -> the
    recipe. Where the recipe or one of its configurations names a synthetic set, or a teacher's files, it is a folder
    of such for
    a suite."""
    found = {}
    for name, dataset in suite_of(recipe.dataset).items():
        values: dict[str, Any] = {SYNTHETIC: recipe.training.synthetic, TEACHER: recipe.training.teacher}
        configurations = [configuration.model_dump(mode="json") for configuration in recipe.study.configurations]
        for given in (values, *(configuration["overrides"] for configuration in configurations)):
            given |= {
                key: storage.join(given[key], name) for key in (SYNTHETIC, TEACHER) if isinstance(given.get(key), str)
            }
        values |= {
            "dataset.name": dataset.name,
            "name": name,
            "storage.root": recipe.folder,
            "study.configurations": configurations,
        }
        found[name] = recipe.with_values(values)
    return found or {"": recipe}


def announce(label: str, recipes: Mapping[str, Recipe], amount: int | None = None) -> None:
    """Say how many images are generated and how many cells run, before either begins.

    Args:
        label: of the job.
        recipes: dataset -> recipe.
        amount: see `parts_of`.
    """
    images = sum(
        len(load_dataset(one.dataset).classnames) * (amount or one.study.amounts[-1])
        for one in recipes.values()
        if one.training.synthetic is None and any(configuration.synthetic for configuration in one.study.configurations)
    )
    runs = counted(sum(len(cells(one.study)) for one in recipes.values()), "cell")
    generated = (
        f"{counted(images, 'image')}, of which those that are missing are generated first, then " if images else ""
    )
    on = f" on {counted(len(recipes), 'dataset')}" if len(recipes) > 1 else ""
    say(f"{label}: {generated}{runs}{on}")
    for warning in next(iter(recipes.values())).warmup_warnings_of_configurations():
        say(f"warning: {warning}")


def parts_of(recipes: Mapping[str, Recipe], url: str, beside: bool, amount: int | None = None) -> dict[str, Part]:
    """Generate what is missing of each dataset's set, and prepare its cells, at the amounts that every set holds.

    Args:
        recipes: as `by_dataset` returns them.
        url: of the study.
        beside: whether a set belongs beside its cells, see `ensure_set`.
        amount: images of each class that are generated; None: the largest amount of the study.
    """
    urls = {name: storage.join(url, name) if name else url for name in recipes}
    sets = {name: ensure_set(one, urls[name] if beside else None, amount) for name, one in recipes.items()}
    most = min((one.images_per_class for one in sets.values() if one is not None), default=0)
    parts = {}
    for name, recipe in recipes.items():
        synthetic = sets[name]
        cut, dropped = with_amounts(recipe, synthetic, most)
        runs = prepare(cut, cells(cut.study), urls[name], synthetic.url if synthetic else None)
        parts[name] = Part(cut, urls[name], synthetic, dropped, runs)
    return parts


def in_order(parts: Mapping[str, Part]) -> list[CellRun]:
    """The cells of all parts, the most informative first: of each seed on all datasets before the next seed."""
    return sorted((run for part in parts.values() for run in part.runs), key=lambda run: run.cell.seed or 0)


def with_ended(parts: Mapping[str, Part], ended: Sequence[CellRun]) -> dict[str, Part]:
    """The parts with what became of their cells."""
    found = {run.url: run for run in ended}
    return {name: replace(part, runs=[found[run.url] for run in part.runs]) for name, part in parts.items()}


def _write(recipe: Recipe, url: str, parts: Mapping[str, Part], work: StudyStatus) -> Findings:
    """Write the findings of each part, and of a suite those of the average; those of the whole."""
    found = {}
    suite = "" not in parts
    with Progress(len(parts) + suite, "analyses", "study") as progress:
        for name, part in parts.items():
            progress.update(0, now=name or recipe.name)
            alone = work if not name else StudyStatus.begin(cells=len(part.runs), done=len(part.runs))
            found[name] = findings.write(part.recipe, part.url, part.runs, part.synthetic, alone, part.state)
            storage.require(part.url, outputs.ALWAYS)
            progress.update()
        progress.update(0, now=recipe.name)
        whole = multi_dataset.write(recipe, url, parts, found, work) if suite else found[""]
        progress.update(suite)
    return whole


def folder_of(recipe: Recipe, out: str | None = None) -> str:
    """Where a recipe's study lies."""
    return urls.absolute(out or storage.join(recipe.folder, "study"))


def check_data(recipe: Recipe, tested: Split) -> None:
    """Refuse real images that are missing or damaged before anything is generated, instead of in each cell after it.

    Raises:
        UserError: one of the splits that the cells use can't be opened, or there is an all_real without images.
    """
    dataset = load_dataset(recipe.dataset)
    if any(configuration.real for configuration in recipe.study.configurations):
        dataset.split("train")
    if any(configuration.data == "all_real" for configuration in recipe.study.configurations) and (
        lacking := dataset.without_training(dataset.novel)
    ):
        raise UserError(
            f"study.configurations: an all_real learns from real images of the novel classes, too, and "
            f"{len(lacking)} of them have "
            f"none in dataset {dataset.name!r} ({few(map(repr, lacking))}); leave this configuration out or add "
            f"training images"
        )
    if recipe.training.keep_best == "validation":
        dataset.split("val")
    dataset.split(tested)


def ensure_set(recipe: Recipe, out: str | None, amount: int | None = None) -> SyntheticSet | None:
    """The synthetic set for the study's largest amount: the one that the recipe names, else generated where missing.

    Args:
        out: the study's folder where one was given: a set in it, or none elsewhere, means that it is kept there.
        amount: images of each class that are generated; None: the study's largest amount.

    Returns:
        None where no configuration learns from synthetic images.
    """
    settings = recipe.study
    if not any(configuration.synthetic for configuration in settings.configurations):
        return None
    if recipe.training.synthetic is not None:
        url = resolve.find_synthetic(recipe)
        plan = read_set(url)
        assert plan is not None, "find_synthetic only names folders with a set"
        return SyntheticSet(url, plan.images_per_class)
    place = storage.join(recipe.folder, "synthetic")
    if out is not None:
        beside = storage.join(out, "synthetic")
        if storage.exists(storage.join(beside, PLAN_NAME)) or not storage.exists(storage.join(place, PLAN_NAME)):
            place = beside
    amount = amount or settings.amounts[-1]
    made = jobs.synth(recipe.with_values({"synthesis.images_per_class": amount}), place)
    work = made.work
    took = (work.seconds / 3600, work.busy) if work.images else (None, None)
    return SyntheticSet(made.url, amount, *took)


def with_amounts(recipe: Recipe, synthetic: SyntheticSet | None, most: int | None = None) -> tuple[Recipe, list[int]]:
    """The recipe with the set written into it and the amounts cut to what it holds, or to `most`; and the amounts that
    fell away."""
    if synthetic is None:
        return recipe, []
    kept = capped(recipe.study.amounts, most or synthetic.images_per_class)
    values = {"training.synthetic": synthetic.url, "study.images_per_class": kept}
    return recipe.with_values(values), [n for n in recipe.study.amounts if n not in kept]


def failures(failed: Mapping[str, str], total: int, url: str) -> str:
    """The sentence about cells that failed, given with their reasons."""
    name, reason = next(iter(failed.items()))
    others = f" (others: {few(list(failed)[1:])})" if len(failed) > 1 else ""
    return (
        f"{len(failed)} of {total} cells failed in {url}; {name}: {reason}{others}; the same command tries them again"
    )
