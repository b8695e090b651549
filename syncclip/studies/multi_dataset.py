"""What a study of a suite finds on average: the means over its datasets, with each dataset's own findings below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from syncclip import storage
from syncclip.datasets import load_dataset
from syncclip.evaluation.metrics import HARMONIC, harmonic_mean
from syncclip.recipe.recipe import Recipe, digest
from syncclip.studies import analysis, findings, outputs
from syncclip.studies.cells import CellRun
from syncclip.studies.findings import Findings, SyntheticSet
from syncclip.studies.status import StudyStatus


@dataclass(frozen=True)
class Part:
    """What a study does on one dataset: all of it, or one part of a suite's.

    Attributes:
        recipe: with the set in it, and the amounts that this holds.
        url: its folder.
        synthetic: None where no configuration learns from synthetic images.
        dropped: amounts that the set doesn't hold.
    """

    recipe: Recipe
    url: str
    synthetic: SyntheticSet | None
    dropped: Sequence[int]
    runs: Sequence[CellRun]

    @property
    def state(self) -> outputs.StudyState:
        """The grid on this dataset, and how far it is."""
        return findings.state_of(self.recipe, self.runs, self.dropped)


def write(
    recipe: Recipe, url: str, parts: Mapping[str, Part], found: Mapping[str, Findings], work: StudyStatus
) -> Findings:
    """Write the findings of the average; a cell counts once it has ended on every dataset.

    Args:
        recipe: of the study.
        url: its folder; those of the parts are in it.
        found: of each part, as `findings.write` returns it.
        work: what running the cells took this time.

    Returns:
        With the table of mean cells.
    """
    state = state_of(recipe, parts)
    runs = [run for part in parts.values() for run in part.runs]
    tables = {name: one.table for name, one in found.items()}
    every = pd.concat([table.assign(dataset=name) for name, table in tables.items()], ignore_index=True)
    table = mean_cells(every, len(parts))
    storage.write_table(storage.join(url, outputs.DATASETS), every, state.owner)
    storage.write_table(storage.join(url, outputs.TABLE), table, state.owner)
    evidence = analysis.joined([one.evidence for one in found.values()], recipe.study.configurations)
    costs = [outputs.read_cost(part.url, part.state.owner).synthesis for part in parts.values()]
    before = outputs.read_cost(url, state.owner)
    cost = outputs.Cost(outputs.added_synthesis(costs), findings.training_cost(before.training, runs, work))
    classes = sum(len(load_dataset(part.recipe.dataset).classnames) for part in parts.values())
    mine = Findings(table, evidence)
    mine = findings.write_conclusions(recipe, url, state, mine, findings.shares_seen(runs), cost, classes, tables)
    storage.require(url, (*outputs.ALWAYS, outputs.DATASETS))
    return mine


def state_of(recipe: Recipe, parts: Mapping[str, Part]) -> outputs.StudyState:
    """The grid of a suite's study, and how far it is on all datasets."""
    first = next(iter(parts.values()))
    datasets = [load_dataset(part.recipe.dataset) for part in parts.values()]
    return outputs.StudyState(
        name=recipe.name,
        dataset=recipe.dataset.name,
        classnames=[name for one in datasets for name in one.classnames],
        base=sum(len(one.base) for one in datasets),
        split=recipe.evaluation.split,
        synthetic=None,
        reference=recipe.study.reference_configuration.name,
        configurations=[
            outputs.ConfigurationState(configuration.name, configuration.method, configuration.data)
            for configuration in recipe.study.configurations
        ],
        images_per_class=first.recipe.study.amounts,
        dropped=list(first.dropped),
        seeds=recipe.study.seeds,
        cells=[_cell_state(run.cell.name, parts) for run in first.runs],
        datasets=list(parts),
    )


def _cell_state(name: str, parts: Mapping[str, Part]) -> outputs.CellState:
    """Of one cell on all datasets: failed where it failed on one, done where it is on all."""
    runs = {place: run for place, part in parts.items() for run in part.runs if run.cell.name == name}
    errors = [f"{place}: {run.error}" for place, run in runs.items() if run.status == "failed"]
    done = all(run.status == "done" for run in runs.values())
    cell = next(iter(runs.values())).cell
    status: outputs.Status = "failed" if errors else "done" if done else "waiting"
    error = "; ".join(errors) if errors else None
    hashes = digest([run.folder.recipe_hash for run in runs.values()])
    return outputs.CellState(name, cell.configuration.name, cell.images_per_class, cell.seed, status, error, hashes)


def mean_cells(every: pd.DataFrame, datasets: int) -> pd.DataFrame:
    """One row for each cell that has ended on all datasets: means of its scores, and of harmonic means those of the
    means; its seconds are added up."""
    whole = every.groupby("cell", sort=False).filter(lambda rows: len(rows) == datasets)
    scores = list(findings.SCORES)
    rows = []
    for _, group in whole.groupby("cell", sort=False):
        means = group[scores].mean()
        for name, (first, second) in HARMONIC.items():
            means[name] = float(harmonic_mean(means[first], means[second]))
        row = group.iloc[0].drop(["dataset", "hash"]).to_dict()
        rows.append({**row, **means.to_dict(), "seconds": group["seconds"].sum()})
    columns = [name for name in every.columns if name not in ("dataset", "hash")]
    return pd.DataFrame(rows, columns=columns).astype(every.dtypes[columns].to_dict())
