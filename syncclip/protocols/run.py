"""Run a protocol: generate synthetic datasets, train on all datasets with all seeds, and write the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

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
from syncclip.studies.run import announce, ensure_set, failures, require_single_model, with_amounts


@dataclass(frozen=True)
class Request:
    """A protocol to reproduce, with its options.

    Attributes:
        protocol: name of the protocol.
        root: folder that contains all datasets, in CoOp's layout.
        datasets, methods: selected training datasets and methods; by default, all in the protocol.
        out: folder or URL for the results; by default `<storage.root>/reproduction`.
        synthetic: folder or URL of existing synthetic datasets, with one subfolder per dataset; by default, synthetic
            datasets are generated.
        overrides: "section.key=value" for all recipes, which take precedence over the configurations' overrides.
    """

    protocol: str
    root: str
    datasets: Sequence[str] = ()
    methods: Sequence[str] = ()
    out: str | None = None
    synthetic: str | None = None
    overrides: Sequence[str] = ()

    def recipes(self) -> dict[str, Recipe]:
        """Return one recipe per training dataset; raise a `UserError` for an unknown protocol, dataset or method."""
        protocol = find_protocol(self.protocol)
        if unknown := [name for name in self.datasets if name not in protocol.datasets]:
            raise UserError(
                f"{protocol.name} does not train on {unknown[0]!r}; {did_you_mean(unknown[0], protocol.datasets)}"
            )
        names = [name for name in protocol.datasets if not self.datasets or name in self.datasets]
        return {name: recipe_of(protocol, name, self.root, self.methods, self.overrides) for name in names}


@dataclass(frozen=True)
class Reproduction:
    """A finished reproduction: the URL of its folder, its table (see `scores.gather`), and the URL of its page."""

    url: str
    table: pd.DataFrame
    page: str


def reproduce(request: Request) -> Reproduction:
    """Run a protocol on the current Ray cluster, seed by seed, and write its tables and page.

    Repeating the call resumes an interrupted reproduction.

    Raises:
        UserError: the protocol, a dataset or a method is unknown, or data is missing. If runs fail, the error is raised
            after the other runs have finished and all files have been written.
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
        runs = {}
        for name, recipe in recipes.items():
            if request.synthetic is not None:
                recipe = recipe.with_values({"training.synthetic": storage.join(request.synthetic, name)})
            synthetic = ensure_set(recipe, storage.join(url, name))
            recipe, _ = with_amounts(recipe, synthetic)
            folder = storage.join(url, name, protocol.runs)
            runs[name] = prepare(recipe, cells(recipe.study), folder, synthetic.url if synthetic else None)
        queue = sorted(chain.from_iterable(runs.values()), key=lambda run: run.cell.seed or 0)
        ended, _ = run_cells(queue, first.study, label=protocol.name)
        by_url = {run.url: run for run in ended}
        runs = {name: [by_url[run.url] for run in waiting] for name, waiting in runs.items()}
        for name, finished in runs.items():
            _write_study(recipes[name], storage.join(url, name, protocol.runs), finished)
        table = gather(protocol, runs)
        page = report.write(protocol, table, url)
        storage.require(url, [page.rpartition("/")[2]])
        failed = {
            f"{name} {run.cell.name}": run.error for name, finished in runs.items() for run in finished if run.error
        }
        if failed:
            raise UserError(failures(failed, len(queue), url))
    return Reproduction(url, table, page)


def recipe_of(
    protocol: Protocol, dataset: str, root: str, methods: Sequence[str] = (), overrides: Sequence[str] = ()
) -> Recipe:
    """Combine a dataset's published recipe with a protocol's recipe, limited to the given methods.

    Published settings of a method for this dataset take precedence over the method's configuration; `overrides` have
    the highest precedence.

    Raises:
        UserError: a method has no configuration, or an override is invalid.
    """
    recipe = Recipe.load(protocol.recipe, overrides, base=f"datasets/{dataset}")
    require_single_model(recipe)
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
    """Raise a `UserError` if a dataset is unreadable, before any images are generated."""
    wanted: list[tuple[DatasetSettings, set[tuple[int, int]]]] = []
    for recipe in recipes.values():
        wanted.append((recipe.dataset, _samplings(recipe)))
        wanted += [(DatasetSettings(name=name, root=recipe.dataset.root), set()) for name in recipe.evaluation.transfer]
    checked = {settings.name: _problem(settings, samplings) for settings, samplings in wanted}
    problems = {name: problem for name, problem in checked.items() if problem is not None}
    if problems:
        name, reason = next(iter(problems.items()))
        others = f" (also: {', '.join(list(problems)[1:])})" if len(problems) > 1 else ""
        raise UserError(
            f"{len(problems)} of {len(wanted)} datasets can't be read; {name}: {reason.rstrip('.')}{others}; "
            "run `syncclip datasets check` for details, or select readable datasets with --dataset"
        )


def _samplings(recipe: Recipe) -> set[tuple[int, int]]:
    """Return (shots, seed) for each few-shot sample used by a recipe's runs."""
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
            dataset.split(split)  # raises if files are corrupt
        if dataset.whole_train is not None:  # a packed dataset may lack images of a few-shot sample
            for shots, seed in sorted(samplings):
                dataset.few_shot(shots, seed)
    except UserError as error:
        return str(error)
    return None


def _write_study(recipe: Recipe, url: str, runs: Sequence[CellRun]) -> None:
    """Write the study files required by `syncclip report` to a dataset's folder."""
    state = findings.state_of(recipe, runs, [])
    table = findings.cell_table(runs, recipe.evaluation.split)
    storage.write_table(storage.join(url, outputs.TABLE), table, state.owner)
    findings.write_state(recipe, url, state)
