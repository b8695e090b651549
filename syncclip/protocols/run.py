"""Run a protocol: synthetic datasets, trainings on all datasets and seeds, tables next to published results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import did_you_mean
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.datasets.check import require_root
from syncclip.protocols import report
from syncclip.protocols.protocols import Protocol, find_protocol
from syncclip.protocols.scores import gather
from syncclip.recipe.recipe import Recipe
from syncclip.runs import resolve
from syncclip.storage import urls
from syncclip.studies import findings, outputs
from syncclip.studies.cells import CellRun, check_configurations, prepare, run_cells
from syncclip.studies.grid import cells
from syncclip.studies.run import announce, ensure_set, failures, with_amounts


@dataclass(frozen=True)
class Request:
    """Protocol to reproduce.

    Attributes:
        root: folder of all datasets, laid out as CoOp's.
        datasets: training datasets; by default all of the protocol.
        methods: by default all of the protocol.
        out: folder or URL; by default `<storage.root>/reproduction`.
        synthetic: folder or URL with one synthetic dataset per dataset, named like it; by default they are generated.
        overrides: "section.key=value" for all recipes; they take precedence over a configuration's overrides.
    """

    protocol: str
    root: str
    datasets: Sequence[str] = ()
    methods: Sequence[str] = ()
    out: str | None = None
    synthetic: str | None = None
    overrides: Sequence[str] = ()

    def recipes(self) -> dict[str, Recipe]:
        """Training dataset -> its recipe.

        Raises:
            UserError: the protocol doesn't exist or doesn't train on a dataset; see `recipe_of` for the rest.
        """
        protocol = find_protocol(self.protocol)
        if unknown := [name for name in self.datasets if name not in protocol.datasets]:
            raise UserError(
                f"{protocol.name} does not train on {unknown[0]!r}; {did_you_mean(unknown[0], protocol.datasets)}"
            )
        names = [name for name in protocol.datasets if not self.datasets or name in self.datasets]
        return {name: recipe_of(protocol, name, self.root, self.methods, self.overrides) for name in names}


@dataclass(frozen=True)
class Reproduction:
    """A finished reproduction: its folder, its rows (see `scores.gather`), and its page."""

    url: str
    table: pd.DataFrame
    page: str


def reproduce(request: Request) -> Reproduction:
    """Run a protocol on the cluster that Ray finds, and write its tables and its page.

    A repeated call resumes. All trainings of the first seed run before those of the next. A failed training stops no
    other.

    Raises:
        UserError: the protocol, a dataset or a method doesn't exist, data is missing, or, after all files were written,
            trainings failed.
    """
    protocol, recipes = find_protocol(request.protocol), request.recipes()
    first = next(iter(recipes.values()))
    storage.configure(first.storage.options)
    require_root(request.root)
    _check_data(recipes)
    url = urls.absolute(request.out or storage.join(first.storage.root, "reproduction"))
    with storage.lock(url, "reproduce"):
        given = {} if request.synthetic is None else {"training.synthetic": request.synthetic}
        announce(protocol.name, {name: recipe.with_values(given) for name, recipe in recipes.items()})
        runs = {
            name: _prepared(
                recipe,
                storage.join(url, name),
                protocol.runs,
                request.synthetic and storage.join(request.synthetic, name),
            )
            for name, recipe in recipes.items()
        }
        queue = sorted((run for of in runs.values() for run in of), key=lambda run: run.cell.seed or 0)
        ended, _ = run_cells(queue, first.study, label=protocol.name)
        by_url = {run.url: run for run in ended}
        runs = {name: [by_url[run.url] for run in of] for name, of in runs.items()}
        for name, of in runs.items():
            _write_study(recipes[name], storage.join(url, name, protocol.runs), of)
        table = gather(protocol, runs)
        page = report.write(protocol, table, url)
        storage.require(url, [page.rpartition("/")[2]])
        if failed := {
            f"{name} {run.cell.name}": run.error or "" for name, of in runs.items() for run in of if run.error
        }:
            raise UserError(failures(failed, len(queue), url))
    return Reproduction(url, table, page)


def recipe_of(
    protocol: Protocol, dataset: str, root: str, methods: Sequence[str] = (), overrides: Sequence[str] = ()
) -> Recipe:
    """The protocol's recipe on top of the authors' recipe of a dataset, with the configurations of the given methods.

    The authors' values for this dataset override those of a configuration, and the command line overrides both.

    Raises:
        UserError: a method has no configuration, or an override is invalid.
    """
    recipe = Recipe.load(protocol.recipe, overrides, base=f"datasets/{dataset}")
    check_configurations(recipe)
    available = {configuration.method for configuration in recipe.study.configurations}
    if unknown := [method for method in methods if method not in available]:
        raise UserError(f"{protocol.name} has no method {unknown[0]!r}; {did_you_mean(unknown[0], sorted(available))}")
    given = {override.partition("=")[0] for override in overrides}
    of_dataset = protocol.overrides.get(dataset, {})
    configurations = []
    for configuration in recipe.study.configurations:
        if not methods or configuration.method in methods:
            merged = {**configuration.overrides, **of_dataset.get(configuration.method, {})}
            kept = {key: value for key, value in merged.items() if key not in given}
            configurations.append(configuration.model_copy(update={"overrides": kept}).model_dump(mode="json"))
    values = {"name": dataset, "dataset.root": root, "study.configurations": configurations}
    return resolve.with_absolute_paths(recipe.with_values(values))


def _check_data(recipes: Mapping[str, Recipe]) -> None:
    """Check all datasets before anything is generated.

    Raises:
        UserError: some can't be read.
    """
    wanted: list[tuple[DatasetSettings, set[tuple[int, int]]]] = []
    for recipe in recipes.values():
        wanted.append((recipe.dataset, _samplings(recipe)))
        wanted += [(DatasetSettings(name=name, root=recipe.dataset.root), set()) for name in recipe.evaluation.transfer]
    problems = {of.name: problem for of, samplings in wanted if (problem := _problem(of, samplings)) is not None}
    if problems:
        name, reason = next(iter(problems.items()))
        others = f" (also: {', '.join(list(problems)[1:])})" if len(problems) > 1 else ""
        raise UserError(
            f"{len(problems)} of {len(wanted)} datasets can't be read; {name}: {reason}{others}; "
            "run `syncclip datasets check`, or select datasets with --dataset"
        )


def _samplings(recipe: Recipe) -> set[tuple[int, int]]:
    """Shots and seeds with which the runs of a dataset sample real images."""
    shots = {
        configuration.overrides.get("dataset.shots", recipe.dataset.shots)
        for configuration in recipe.study.configurations
        if configuration.real
    }
    seeds = recipe.study.seeds if recipe.dataset.seed is None else [recipe.dataset.seed]
    return {(count, seed) for count in shots for seed in seeds}


def _problem(settings: DatasetSettings, samplings: set[tuple[int, int]]) -> str | None:
    try:
        dataset = load_dataset(settings)
        for split in dataset.splits:
            dataset.split(split)  # finds damaged files
        if dataset.whole_train is not None:  # packed, possibly without the images of a sampling
            for shots, seed in sorted(samplings):
                dataset.few_shot(shots, seed)
    except UserError as error:
        return str(error)
    return None


def _prepared(recipe: Recipe, url: str, runs: str, synthetic: str | None) -> list[CellRun]:
    """The runs of one dataset; its synthetic dataset is generated if it is missing."""
    if synthetic is not None:
        recipe = recipe.with_values({"training.synthetic": synthetic})
    dataset = ensure_set(recipe, url)
    recipe, _ = with_amounts(recipe, dataset)
    return prepare(recipe, cells(recipe.study), storage.join(url, runs), dataset.url if dataset else None)


def _write_study(recipe: Recipe, url: str, runs: Sequence[CellRun]) -> None:
    """Write the files with which `syncclip report` reads the folder of a dataset."""
    state = findings.state_of(recipe, runs, [])
    table = findings.cell_table(runs, recipe.evaluation.split)
    storage.write_table(storage.join(url, outputs.TABLE), table, state.owner)
    findings.write_state(recipe, url, state)
