"""Run a study: generate missing synthetic images, execute the training runs, and write the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
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
from syncclip.runtime.progress import Progress, print_message
from syncclip.runtime.ray_session import ray_session
from syncclip.storage import urls
from syncclip.studies import findings, multi_dataset, outputs
from syncclip.studies.cells import CellRun, check_configurations, prepare, run_cells
from syncclip.studies.design import power_line
from syncclip.studies.findings import Findings, SyntheticSet
from syncclip.studies.grid import cells
from syncclip.studies.multi_dataset import Part
from syncclip.studies.outputs import Comparison
from syncclip.studies.status import StudyStatus
from syncclip.synthesis.plan import PLAN_NAME
from syncclip.synthetic_sets.imported import read_set
from syncclip.training.settings import SCHEDULES

SYNTHETIC = "training.synthetic"
TEACHER = "training.teacher"


@dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes:
        url: folder of the study.
        table: one row per finished run, as in `findings.cell_table`; for a suite, averages over the datasets.
        comparisons: comparisons of the reference configuration with the baselines.
        failed: name of each failed run -> error.
        cells: number of runs.
    """

    url: str
    table: pd.DataFrame
    comparisons: Sequence[Comparison]
    failed: Mapping[str, str]
    cells: int

    def check(self) -> None:
        """Raise a `UserError` that lists the failed runs, if there are any."""
        if self.failed:
            raise UserError(failures(self.failed, self.cells, self.url))


def study(recipe: Recipe, out: str | None = None) -> Study:
    """Run a study with a single CLIP model; see `levels.study`."""
    require_single_model(recipe)
    check_configurations(recipe)
    storage.configure(recipe.storage.options)
    recipes = by_dataset(recipe)
    for of_dataset in recipes.values():
        check_data(of_dataset, of_dataset.evaluation.split)
    url = folder_of(recipe, out)
    if storage.exists(storage.join(url, outputs.LEVELS)):
        raise UserError(
            f"{url} contains a study with several pretrained tags; set study.pretrained, or use a new folder"
        )
    with storage.lock(url, "study"), ExitStack() as stack:
        announce("study", recipes)
        if power := power_line(recipes.values()):
            print_message(power)
        if _starts_several_sets(recipes, url, out is not None):
            stack.enter_context(ray_session())
        parts = parts_of(recipes, url, out is not None)
        state = parts[""].state if "" in parts else multi_dataset.state_of(recipe, parts)
        grids = [(part.recipe, part.url, part.state) for part in parts.values()]
        for grid in [*grids, (recipe, url, state)]:
            if not storage.exists(storage.join(grid[1], outputs.STATE)):  # an extended study keeps the previous grid
                findings.write_state(*grid)
        ended, work = run_cells(in_order(parts), recipe.study, out=url, owner=state.owner)
        by_url = {run.url: run for run in ended}
        parts = {name: replace(part, runs=[by_url[run.url] for run in part.runs]) for name, part in parts.items()}
        results = _write(recipe, url, parts, work)
        failed = {
            f"{name} {run.cell.name}".strip(): run.error or ""
            for name, part in parts.items()
            for run in part.runs
            if run.status == "failed"
        }
        return Study(url, results.table, results.comparisons, failed, len(ended))


def by_dataset(recipe: Recipe) -> dict[str, Recipe]:
    """Return {dataset: recipe} for the datasets of a suite, or {"": recipe} for a single dataset.

    For a suite, `training.synthetic` and `training.teacher` are folders with one subfolder per dataset.
    """
    recipes = {}
    for name, dataset in suite_of(recipe.dataset).items():
        values: dict[str, Any] = {SYNTHETIC: recipe.training.synthetic, TEACHER: recipe.training.teacher}
        configurations = [configuration.model_dump(mode="json") for configuration in recipe.study.configurations]
        for paths in (values, *(configuration["overrides"] for configuration in configurations)):
            folders = {key: paths[key] for key in (SYNTHETIC, TEACHER) if isinstance(paths.get(key), str)}
            paths.update({key: storage.join(folder, name) for key, folder in folders.items()})
        values |= {
            "dataset.name": dataset.name,
            "name": name,
            "storage.root": recipe.folder,
            "study.configurations": configurations,
        }
        recipes[name] = recipe.with_values(values)
    return recipes or {"": recipe}


def announce(label: str, recipes: Mapping[str, Recipe], images_per_class: int | None = None) -> None:
    """Print the numbers of images to generate and runs to execute; see `parts_of` for `images_per_class`."""
    images = sum(
        len(load_dataset(recipe.dataset).classnames) * (images_per_class or recipe.study.amounts[-1])
        for recipe in recipes.values()
        if recipe.training.synthetic is None and any(each.synthetic for each in recipe.study.configurations)
    )
    generating = f"generating missing images (at most {images:,}), then " if images else ""
    trainings = counted(sum(len(cells(recipe.study)) for recipe in recipes.values()), "training run")
    datasets = f" on {counted(len(recipes), 'dataset')}" if len(recipes) > 1 else ""
    schedule = SCHEDULES[next(iter(recipes.values())).training.epochs_over]
    print_message(f"{label}: {generating}executing {trainings}{datasets}; {schedule}")
    for warning in next(iter(recipes.values())).warmup_warnings_of_configurations():
        print_message(f"warning: {warning}")


def parts_of(
    recipes: Mapping[str, Recipe], url: str, beside: bool, images_per_class: int | None = None
) -> dict[str, Part]:
    """Generate each dataset's missing images, and prepare runs for the numbers of images available in all datasets.

    Args:
        recipes: result of `by_dataset`.
        url: folder of the study.
        beside: whether to write synthetic datasets to the study's folder (see `ensure_set`).
        images_per_class: number of images per class to generate; by default the study's largest number.
    """
    folders = {name: storage.join(url, name) if name else url for name in recipes}
    sets = {
        name: ensure_set(recipe, folders[name] if beside else None, images_per_class)
        for name, recipe in recipes.items()
    }
    largest = min((synthetic.images_per_class for synthetic in sets.values() if synthetic is not None), default=0)
    parts = {}
    for name, recipe in recipes.items():
        synthetic, folder = sets[name], folders[name]
        reduced, dropped = with_amounts(recipe, synthetic, largest)
        runs = prepare(reduced, cells(reduced.study), folder, synthetic.url if synthetic else None)
        parts[name] = Part(reduced, folder, synthetic, dropped, runs)
    return parts


def in_order(parts: Mapping[str, Part]) -> list[CellRun]:
    """Return the runs of all datasets, sorted by seed."""
    return sorted((run for part in parts.values() for run in part.runs), key=lambda run: run.cell.seed or 0)


def _write(recipe: Recipe, url: str, parts: Mapping[str, Part], work: StudyStatus) -> Findings:
    """Write the results of each dataset and, for a suite, their average; return the results of the whole study."""
    written = {}
    suite = "" not in parts
    with Progress(len(parts) + suite, "analyses", "study") as progress:
        for name, part in parts.items():
            progress.update(0, now=name or recipe.name)
            work_of_part = work if not name else StudyStatus.begin(cells=len(part.runs), done=len(part.runs))
            written[name] = findings.write(part.recipe, part.url, part.runs, part.synthetic, work_of_part, part.state)
            storage.require(part.url, outputs.ALWAYS)
            progress.update()
        progress.update(0, now=recipe.name)
        result = multi_dataset.write(recipe, url, parts, written, work) if suite else written[""]
        progress.update(suite)
    return result


def folder_of(recipe: Recipe, out: str | None = None) -> str:
    """Return the folder of a study."""
    return urls.absolute(out or storage.join(recipe.folder, "study"))


def require_single_model(recipe: Recipe) -> None:
    """Raise a `UserError` if the recipe's study is repeated with several pretrained tags."""
    if recipe.study.pretrained:
        raise UserError(
            "study.pretrained is only supported by `syncclip study`; set backbone.pretrained to one tag, and "
            "study.pretrained=[]"
        )


def check_data(recipe: Recipe, tested: Split) -> None:
    """Check that the required real images are available before any images are generated.

    Raises:
        UserError: a split that the runs use is unreadable, or `all_real` is used without real images of novel classes.
    """
    dataset, configurations = load_dataset(recipe.dataset), recipe.study.configurations
    if any(configuration.real for configuration in configurations):
        dataset.split("train")
    all_real = any(configuration.data == "all_real" for configuration in configurations)
    if all_real and (missing := dataset.without_training(dataset.novel)):
        raise UserError(
            "study.configurations: data all_real requires real images of every novel class, but dataset "
            f"{dataset.name!r} has none for {counted(len(missing), 'novel class', 'novel classes')} "
            f"({few(map(repr, missing))}); add images or remove this configuration"
        )
    if recipe.training.keep_best == "validation":
        dataset.split("val")
    dataset.split(tested)


def ensure_set(recipe: Recipe, out: str | None, images_per_class: int | None = None) -> SyntheticSet | None:
    """Find the synthetic dataset of a recipe, or generate its missing images.

    Args:
        out: folder for a new synthetic dataset; by default the recipe's folder, which is also used if it contains a
            dataset and `out` does not.
        images_per_class: number of images per class to generate; by default the study's largest number.

    Returns:
        The synthetic dataset, or None if no configuration uses synthetic images.
    """
    if not any(configuration.synthetic for configuration in recipe.study.configurations):
        return None
    if recipe.training.synthetic is not None:
        url = resolve.find_synthetic(recipe)
        plan = read_set(url)
        assert plan is not None, "find_synthetic must return the folder of a synthetic dataset"
        return SyntheticSet(url, plan.images_per_class)
    url = _set_folder(recipe, out)
    images_per_class = images_per_class or recipe.study.amounts[-1]
    done = jobs.synth(recipe.with_values({"synthesis.images_per_class": images_per_class}), url)
    cost = (done.work.seconds / 3600, done.work.busy) if done.work.images else (None, None)
    return SyntheticSet(done.url, images_per_class, *cost)


def _set_folder(recipe: Recipe, out: str | None) -> str:
    """Return the folder of a synthetic dataset that the study generates or completes; see `ensure_set`."""
    url = storage.join(recipe.folder, "synthetic")
    if out is None:
        return url
    beside = storage.join(out, "synthetic")
    if storage.exists(storage.join(beside, PLAN_NAME)) or not storage.exists(storage.join(url, PLAN_NAME)):
        return beside
    return url


def _starts_several_sets(recipes: Mapping[str, Recipe], url: str, beside: bool) -> bool:
    """Return whether the study starts more than one synthetic dataset, without a GPU.

    These datasets can share a Ray session, which saves the start of Ray for each of them. On a GPU, they don't, because
    a local Ray instance waits only at its end until its workers have released the GPU's memory.
    """
    new = [
        recipe
        for name, recipe in recipes.items()
        if any(configuration.synthetic for configuration in recipe.study.configurations)
        and recipe.training.synthetic is None
        and not recipe.synthesis.num_gpus
        and not storage.exists(
            storage.join(_set_folder(recipe, storage.join(url, name) if beside else None), PLAN_NAME)
        )
    ]
    return len(new) > 1


def with_amounts(
    recipe: Recipe, synthetic: SyntheticSet | None, largest: int | None = None
) -> tuple[Recipe, list[int]]:
    """Set a recipe's synthetic dataset, and limit its numbers of images per class to `largest` or the dataset's size.

    Returns:
        The recipe, and the dropped numbers of images per class.
    """
    if synthetic is None:
        return recipe, []
    kept = sorted({min(n, largest or synthetic.images_per_class) for n in recipe.study.amounts})
    values = {SYNTHETIC: synthetic.url, "study.images_per_class": kept}
    return recipe.with_values(values), [n for n in recipe.study.amounts if n not in kept]


def failures(failed: Mapping[str, str], total: int, url: str) -> str:
    """Format an error message about the failed runs."""
    name, reason = next(iter(failed.items()))
    others = f" (others: {few(list(failed)[1:])})" if len(failed) > 1 else ""
    return (
        f"{len(failed)} of {total} training runs failed in {url}; {name}: {reason}{others}; "
        "run the same command to retry them"
    )
