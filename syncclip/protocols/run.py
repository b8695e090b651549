"""A protocol from beginning to end: synthetic sets, runs on all datasets and seeds, tables beside published ones."""

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
    """What to reproduce.

    Attributes:
        protocol: its name.
        root: the folder of all datasets, laid out as CoOp's.
        datasets: to train on; all of the protocol by default.
        methods: whose configurations are run; all of the protocol by default.
        out: folder or URL; by default `<storage.root>/reproduction`.
        synthetic: folder or URL of synthetic sets, one for each dataset and named like it, instead of generating them.
        overrides: "section.key=value" for the recipes of all datasets; they win, over a configuration's own values,
        too.
    """

    protocol: str
    root: str
    datasets: Sequence[str] = ()
    methods: Sequence[str] = ()
    out: str | None = None
    synthetic: str | None = None
    overrides: Sequence[str] = ()

    def recipes(self) -> dict[str, Recipe]:
        """Dataset -> its recipe, of each that is trained on.

        Raises:
            UserError: no such protocol; it trains on no such dataset; see `recipe_of` for the rest.
        """
        protocol = find_protocol(self.protocol)
        if unknown := [one for one in self.datasets if one not in protocol.datasets]:
            raise UserError(
                f"{protocol.name} is not trained on {unknown[0]!r}; {did_you_mean(unknown[0], protocol.datasets)}"
            )
        chosen = [one for one in protocol.datasets if not self.datasets or one in self.datasets]
        return {one: recipe_of(protocol, one, self.root, self.methods, self.overrides) for one in chosen}


@dataclass(frozen=True)
class Reproduction:
    """A finished reproduction: where it lies, its rows (see `scores.gather`), and its page."""

    url: str
    table: pd.DataFrame
    page: str


def reproduce(request: Request) -> Reproduction:
    """Run a protocol on the cluster that Ray finds, and write its tables and its page; see the package for the files.

    Killed at any time, the same call goes on: shards, runs and tests that are done are not done again. All runs of the
    first seed come before those of the next. A run that fails doesn't stop the others.

    Raises:
        UserError: no such protocol, dataset or method; data or a set is missing; or, after everything else was
            written, some runs failed: the sentence names them.
    """
    protocol, recipes = find_protocol(request.protocol), request.recipes()
    first = next(iter(recipes.values()))
    storage.configure(first.storage.options)
    require_root(request.root)
    _check_data(recipes)
    url = urls.absolute(request.out or storage.join(first.storage.root, "reproduction"))
    sets = {one: request.synthetic and storage.join(request.synthetic, one) for one in recipes}
    with storage.lease(url, "reproduce"):
        given = {} if request.synthetic is None else {"training.synthetic": request.synthetic}
        announce(protocol.name, {name: one.with_values(given) for name, one in recipes.items()})
        prepared = {
            one: _prepared(recipe, protocol, storage.join(url, one), sets[one]) for one, recipe in recipes.items()
        }
        waiting = [run for runs in prepared.values() for run in runs]
        ended, _ = run_cells(sorted(waiting, key=lambda run: run.cell.seed or 0), first.study, label=protocol.name)
        found = {run.url: run for run in ended}
        prepared = {one: [found[run.url] for run in runs] for one, runs in prepared.items()}
        for one, runs in prepared.items():
            _write_study(recipes[one], storage.join(url, one, protocol.runs), runs)
        table = gather(protocol, prepared)
        page = report.write(protocol, table, url)
        storage.require(url, [page.rpartition("/")[2]])
        if failed := {
            f"{one} {run.cell.name}": run.error or "" for one in prepared for run in prepared[one] if run.error
        }:
            raise UserError(failures(failed, len(waiting), url))
    return Reproduction(url, table, page)


def recipe_of(
    protocol: Protocol, dataset: str, root: str, methods: Sequence[str] = (), overrides: Sequence[str] = ()
) -> Recipe:
    """The protocol's recipe over the authors' recipe of a dataset, with the configurations of some methods alone.

    A configuration's own values give way to those that its authors have for this dataset, and both to the command line.

    Raises:
        UserError: no configuration is of one of the methods; or an override is wrong.
    """
    recipe = Recipe.load(protocol.recipe, overrides, base=f"datasets/{dataset}")
    check_configurations(recipe)
    there = {configuration.method for configuration in recipe.study.configurations}
    if unknown := [method for method in methods if method not in there]:
        raise UserError(f"{protocol.name} has no method {unknown[0]!r}; {did_you_mean(unknown[0], sorted(there))}")
    given = {override.partition("=")[0] for override in overrides}
    apart = protocol.apart.get(dataset, {})
    configurations = []
    for configuration in recipe.study.configurations:
        if not methods or configuration.method in methods:
            own = {**configuration.overrides, **apart.get(configuration.method, {})}
            kept = {key: value for key, value in own.items() if key not in given}
            configurations.append(configuration.model_copy(update={"overrides": kept}).model_dump(mode="json"))
    values = {"name": dataset, "dataset.root": root, "study.configurations": configurations}
    return resolve.with_absolute_paths(recipe.with_values(values))


def _check_data(recipes: Mapping[str, Recipe]) -> None:
    """Refuse now what would fail only hours later."""
    wanted: list[tuple[DatasetSettings, set[tuple[int, int]]]] = []
    for recipe in recipes.values():
        wanted.append((recipe.dataset, _choices(recipe)))
        wanted += [(DatasetSettings(name=name, root=recipe.dataset.root), set()) for name in recipe.evaluation.transfer]
    problems = {one.name: problem for one, choices in wanted if (problem := _problem(one, choices)) is not None}
    if problems:
        name, reason = next(iter(problems.items()))
        also = f" (also: {', '.join(list(problems)[1:])})" if len(problems) > 1 else ""
        raise UserError(
            f"{len(problems)} of {len(wanted)} datasets can't be read; {name}: {reason}{also}; see `syncclip datasets "
            "check`, and name those to go on with by --dataset"
        )


def _choices(recipe: Recipe) -> set[tuple[int, int]]:
    """The shots and seeds by which the runs of a dataset choose real images."""
    shots = {
        configuration.overrides.get("dataset.shots", recipe.dataset.shots)
        for configuration in recipe.study.configurations
        if configuration.real
    }
    given = recipe.dataset.seed
    return {(count, seed) for count in shots for seed in (recipe.study.seeds if given is None else [given])}


def _problem(settings: DatasetSettings, choices: set[tuple[int, int]]) -> str | None:
    try:
        dataset = load_dataset(settings)
        for split in dataset.splits:
            dataset.split(split)  # damaged images are found now, not where they are used
        if dataset.whole_train is not None:  # packed, perhaps without the images of a choice
            for shots, seed in sorted(choices):
                dataset.few_shot(shots, seed)
    except UserError as error:
        return str(error)
    return None


def _prepared(recipe: Recipe, protocol: Protocol, url: str, synthetic: str | None) -> list[CellRun]:
    """The runs of one dataset, its synthetic set generated where there is none."""
    if synthetic is not None:
        recipe = recipe.with_values({"training.synthetic": synthetic})
    there = ensure_set(recipe, url)
    recipe, _ = with_amounts(recipe, there)
    return prepare(recipe, cells(recipe.study), storage.join(url, protocol.runs), there.url if there else None)


def _write_study(recipe: Recipe, url: str, runs: Sequence[CellRun]) -> None:
    """What makes the folder of a dataset one that `syncclip report` reads."""
    state = findings.state_of(recipe, runs, [])
    table = findings.cell_table(runs, recipe.evaluation.split)
    storage.write_table(storage.join(url, outputs.TABLE), table, state.owner)
    findings.write_state(recipe, url, state)
