"""Results of studies on a suite, averaged over its datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from syncclip import storage
from syncclip.evaluation.metrics import HARMONIC, harmonic_mean
from syncclip.recipe.recipe import Recipe, digest
from syncclip.studies import analysis, findings, outputs
from syncclip.studies.cells import CellRun
from syncclip.studies.findings import Findings, SyntheticSet
from syncclip.studies.status import StudyStatus


@dataclass(frozen=True)
class Part:
    """Study of a single dataset, which may be part of a suite.

    Attributes:
        recipe: recipe with the URL of the synthetic dataset; numbers of images per class are limited to its size.
        synthetic: synthetic dataset, or None if no configuration uses synthetic images.
        dropped: requested numbers of images per class that exceed the synthetic dataset's size.
    """

    recipe: Recipe
    url: str
    synthetic: SyntheticSet | None
    dropped: Sequence[int]
    runs: Sequence[CellRun]

    @property
    def state(self) -> outputs.StudyState:
        """Grid and progress of the study on this dataset."""
        return findings.state_of(self.recipe, self.runs, self.dropped)


def write(
    recipe: Recipe, url: str, parts: Mapping[str, Part], of_parts: Mapping[str, Findings], work: StudyStatus
) -> Findings:
    """Write results averaged over the datasets, based on runs that are finished on every dataset.

    Args:
        of_parts: result of `findings.write` for each dataset.
        work: status of the runs in this call.
    """
    state = state_of(recipe, parts)
    runs = [run for part in parts.values() for run in part.runs]
    tables = {name: part.table for name, part in of_parts.items()}
    rows = pd.concat([table.assign(dataset=name) for name, table in tables.items()], ignore_index=True)
    table = mean_cells(rows, len(parts))
    storage.write_table(storage.join(url, outputs.DATASETS), rows, state.owner)
    storage.write_table(storage.join(url, outputs.TABLE), table, state.owner)
    evidence = analysis.joined([part.evidence for part in of_parts.values()], recipe.study.evaluated)
    costs = [outputs.read_cost(part.url, part.state.owner).synthesis for part in parts.values()]
    before = outputs.read_cost(url, state.owner)
    cost = outputs.Cost(outputs.total_synthesis_cost(costs), findings.training_cost(before.training, runs, work))
    average = findings.write_conclusions(
        recipe, url, state, Findings(table, evidence), runs, cost, len(state.classnames), tables
    )
    storage.require(url, (*outputs.ALWAYS, outputs.DATASETS))
    return average


def state_of(recipe: Recipe, parts: Mapping[str, Part]) -> outputs.StudyState:
    """Build the content of study.json for a suite, with the progress over all datasets."""
    states = {name: part.state for name, part in parts.items()}
    first = next(iter(states.values()))
    return replace(
        first,
        name=recipe.name,
        dataset=recipe.dataset.name,
        classnames=[name for state in states.values() for name in state.classnames],
        base=sum(state.base for state in states.values()),
        synthetic=None,
        cells=[_joined_cell(cell.cell, states) for cell in first.cells],
        datasets=list(parts),
    )


def _joined_cell(name: str, states: Mapping[str, outputs.StudyState]) -> outputs.CellState:
    """Combine a run's states on all datasets: failed if it failed on any dataset, done if it is done on all."""
    cells = {dataset: cell for dataset, state in states.items() for cell in state.cells if cell.cell == name}
    errors = [f"{dataset}: {cell.error}" for dataset, cell in cells.items() if cell.status == "failed"]
    done = all(cell.status == "done" for cell in cells.values())
    status: outputs.Status = "failed" if errors else "done" if done else "waiting"
    hashes = digest([cell.hash for cell in cells.values()])
    return replace(next(iter(cells.values())), status=status, error="; ".join(errors) or None, hash=hashes)


def mean_cells(rows: pd.DataFrame, datasets: int) -> pd.DataFrame:
    """Average the rows of each run that is finished on all datasets.

    Harmonic means are computed from the mean accuracies; durations are summed.
    """
    finished = rows.groupby("cell", sort=False).filter(lambda cells: len(cells) == datasets)
    means = []
    for _, cells in finished.groupby("cell", sort=False):
        scores = cells[list(findings.SCORES)].mean()
        for name, (first, second) in HARMONIC.items():
            scores[name] = float(harmonic_mean(scores[first], scores[second]))
        keys = cells.iloc[0].drop(["dataset", "hash"]).to_dict()
        means.append({**keys, **scores.to_dict(), "seconds": cells["seconds"].sum()})
    columns = [name for name in rows.columns if name not in ("dataset", "hash")]
    return pd.DataFrame(means, columns=columns).astype(rows.dtypes[columns].to_dict())
