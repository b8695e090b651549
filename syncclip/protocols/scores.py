"""Scores of a reproduction: one row per run and test dataset, means over seeds, and averages over datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from syncclip.core.text import counted
from syncclip.evaluation.metrics import HARMONIC, harmonic_mean
from syncclip.protocols.protocols import AVERAGE, Protocol, published
from syncclip.runs.evaluate import transfer_results
from syncclip.studies.cells import CellRun


@dataclass(frozen=True)
class ResultLine:
    """Row of the result tables: a configuration, its number of shots, and its number of synthetic images per class."""

    configuration: str
    method: str
    data: str
    shots: int
    images_per_class: int | None

    @property
    def name(self) -> str:
        """Label such as `syncclip, both`; the training data is omitted if it is part of the configuration's name."""
        named = self.data == "none" or self.data in self.configuration.split("-")
        return self.configuration if named else f"{self.configuration}, {self.data}"


@dataclass(frozen=True)
class Score:
    """Mean of each metric on one dataset or over all datasets, with the numbers of finished and planned runs."""

    means: Mapping[str, float]
    done: int
    wanted: int


@dataclass(frozen=True)
class Scores:
    """All scores of a protocol.

    Attributes:
        tests: names of the test datasets.
        setting: description of the backbone, the number of synthetic images, and the seeds.
        complete: whether all of the protocol's datasets were evaluated (required for published averages).
        of: (table row, dataset or "average") -> score.
    """

    protocol: Protocol
    lines: Sequence[ResultLine]
    tests: Sequence[str]
    setting: str
    complete: bool
    of: Mapping[tuple[ResultLine, str], Score]

    def published(self, line: ResultLine, over: str) -> dict[str, float]:
        """Return the published results that match a table row; averages require results for all datasets."""
        if over == AVERAGE and not self.complete:
            return {}
        comparable = line.data in ("none", "both" if line.method == "syncclip" else "real")
        return published().of(self.protocol.name, over, line.method) if comparable else {}

    def label(self, line: ResultLine) -> str:
        """Return the label of a table row, including the number of synthetic images if it varies between rows."""
        amounts = {other.images_per_class for other in self.lines} - {None}
        amount = f", {line.images_per_class} synthetic" if line.images_per_class is not None else ""
        return line.name + (amount if len(amounts) > 1 else "")


def gather(protocol: Protocol, runs: Mapping[str, Sequence[CellRun]]) -> pd.DataFrame:
    """Collect one row per run and test dataset, including unfinished runs.

    The columns are trained_on, tested_on, backbone, configuration, method, data ("none" for zero-shot), shots,
    images_per_class (null without synthetic images), seed (null for zero-shot), status, and the protocol's metrics in
    per cent.
    """
    rows = []
    for dataset, cells in runs.items():
        for run in cells:
            configuration, recipe = run.cell.configuration, run.recipe
            for test in [dataset, *recipe.evaluation.transfer]:
                results = {}
                if run.status == "done":
                    results = run.results if test == dataset else transfer_results(run.folder, test)
                rows.append(
                    {
                        "trained_on": dataset,
                        "tested_on": test,
                        "backbone": " ".join(filter(None, [recipe.backbone.name, recipe.backbone.pretrained])),
                        "configuration": configuration.name,
                        "method": configuration.method,
                        "data": configuration.data if configuration.trained else "none",
                        "shots": recipe.dataset.shots,
                        "images_per_class": run.cell.images_per_class,
                        "seed": run.cell.seed,
                        "status": run.status,
                        **{metric: results.get(metric) for metric in protocol.metrics},
                    }
                )
    table = pd.DataFrame(rows)
    return table.astype({"images_per_class": "Int64", "seed": "Int64", **dict.fromkeys(protocol.metrics, "float64")})


def summarise(protocol: Protocol, table: pd.DataFrame) -> Scores:
    """Average scores over the finished seeds on each dataset, and then over the datasets.

    An average over datasets is computed only if every dataset has a mean. As in the literature, averages for prompt
    transfer exclude the training dataset.
    """
    keys = ["configuration", "method", "data", "shots", "images_per_class", "tested_on"]
    metrics = list(protocol.metrics)
    groups: Any = table.groupby(keys, sort=False, dropna=False)
    scores = {}
    for (configuration, method, data, shots, amount, test), rows in groups:
        line = ResultLine(configuration, method, data, int(shots), None if pd.isna(amount) else int(amount))
        done = rows[rows["status"] == "done"]
        means = {str(metric): mean for metric, mean in done[metrics].astype(float).mean().dropna().items()}
        scores[line, test] = Score(_with_harmonic(means), len(done), len(rows))
    lines, tests = _ordered(line for line, _ in scores), list(dict.fromkeys(test for _, test in scores))
    targets = [test for test in tests if test not in set(table["trained_on"])] or tests
    for line in lines:
        scores[line, AVERAGE] = _average(protocol, [scores[line, test] for test in targets])
    complete = set(tests) >= set(protocol.datasets)
    return Scores(protocol, lines, tests, _setting(table), complete, scores)


def _ordered(unordered: Iterable[ResultLine]) -> list[ResultLine]:
    """Sort table rows by first occurrence of their method and configuration, then by shots and synthetic images."""
    lines = list(dict.fromkeys(unordered))
    methods, configurations = ([getattr(line, key) for line in lines] for key in ("method", "configuration"))
    return sorted(
        lines,
        key=lambda line: (
            methods.index(line.method), configurations.index(line.configuration), line.shots, line.images_per_class or 0
        ),
    )  # fmt: skip


def _setting(table: pd.DataFrame) -> str:
    parts = [", ".join(dict.fromkeys(table["backbone"]))]
    amounts, seeds = (sorted(set(table[name].dropna())) for name in ("images_per_class", "seed"))
    if len(amounts) == 1:
        parts.append(f"{counted(amounts[0], 'synthetic image')} per class")
    if seeds:
        parts.append(f"seeds {', '.join(map(str, seeds))}")
    return "; ".join(parts)


def _average(protocol: Protocol, scores: Sequence[Score]) -> Score:
    means = {
        metric: sum(score.means[metric] for score in scores) / len(scores)
        for metric in protocol.metrics
        if all(metric in score.means for score in scores)
    }
    done, wanted = sum(score.done for score in scores), sum(score.wanted for score in scores)
    return Score(_with_harmonic(means), done, wanted)


def _with_harmonic(means: Mapping[str, float]) -> dict[str, float]:
    return {**means} | {
        metric: float(harmonic_mean(means[first], means[second]))
        for metric, (first, second) in HARMONIC.items()
        if first in means and second in means
    }
