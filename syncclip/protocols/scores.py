"""From runs to numbers: one row a run and dataset, means over seeds, averages over datasets."""

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
    """One method as a protocol runs it: the configuration, and how much it learns from."""

    configuration: str
    method: str
    data: str
    shots: int
    images_per_class: int | None

    @property
    def name(self) -> str:
        """For tables: `syncclip, both`; the configuration's name alone, where it names the data itself."""
        return (
            self.configuration
            if self.data == "none" or self.data in self.configuration.split("-")
            else f"{self.configuration}, {self.data}"
        )


@dataclass(frozen=True)
class Score:
    """What a line reached on one dataset, or on average; metrics without a finished run are absent.

    Attributes:
        done, wanted: runs.
    """

    means: Mapping[str, float]
    done: int
    wanted: int


@dataclass(frozen=True)
class Scores:
    """All numbers of a protocol.

    Attributes:
        tests: datasets that runs are tested on, in order.
        setting: what the runs stand on: backbone and seeds, in words.
        whole: whether these are all that the protocol is about, so that an average can be held baseline published ones.
        of: (line, dataset or "average") -> its score.
    """

    protocol: Protocol
    lines: Sequence[ResultLine]
    tests: Sequence[str]
    setting: str
    whole: bool
    of: Mapping[tuple[ResultLine, str], Score]

    def published(self, line: ResultLine, over: str) -> dict[str, float]:
        """Published figures that this line can be held baseline; averages only with all datasets."""
        if over == AVERAGE and not self.whole:
            return {}
        usual = line.data in ("none", "both" if line.method == "syncclip" else "real")
        return published().of(self.protocol.name, over, line.method) if usual else {}

    def label(self, line: ResultLine) -> str:
        """What a table calls a line: its amount of synthetic images stands there where lines differ in it."""
        amounts = {one.images_per_class for one in self.lines} - {None}
        amount = f", {line.images_per_class} synthetic" if line.images_per_class is not None else ""
        return line.name + (amount if len(amounts) > 1 else "")


def gather(protocol: Protocol, runs: Mapping[str, Sequence[CellRun]]) -> pd.DataFrame:
    """One row for each run and dataset that it is tested on, done or not.

    Columns: trained_on, tested_on, backbone, configuration, method, data (none for zero-shot), shots,
    images_per_class (null
    where it learns from no synthetic images), seed (null for zero-shot), status, and the protocol's metrics, per
    cent.
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
    """Means over seeds of every line on every dataset, and averages over the datasets.

    Prompts that are carried to other datasets are averaged over these alone, as in the literature. A mean is over the
    seeds that are done; an average is there only where every dataset has a mean.
    """
    keys, metrics = (
        ["configuration", "method", "data", "shots", "images_per_class", "tested_on"],
        list(protocol.metrics),
    )
    groups: Any = table.groupby(keys, sort=False, dropna=False)
    found = {}
    for (configuration, method, data, shots, amount, test), rows in groups:
        line = ResultLine(configuration, method, data, int(shots), None if pd.isna(amount) else int(amount))
        done = rows[rows["status"] == "done"]
        means = {str(metric): mean for metric, mean in done[metrics].astype(float).mean().dropna().items()}
        found[line, test] = Score(_with_harmonic(means), len(done), len(rows))
    lines, tests = _ordered(line for line, _ in found), list(dict.fromkeys(test for _, test in found))
    targets = [test for test in tests if test not in set(table["trained_on"])] or tests
    for line in lines:
        found[line, AVERAGE] = _average(protocol, [found[line, test] for test in targets])
    whole = set(tests) >= set(protocol.datasets)
    return Scores(protocol, lines, tests, _setting(table), whole, found)


def _ordered(found: Iterable[ResultLine]) -> list[ResultLine]:
    """Lines method by method and configuration by configuration as they come, each with more and more images."""
    lines = list(dict.fromkeys(found))
    methods, configurations = ([getattr(line, key) for line in lines] for key in ("method", "configuration"))
    return sorted(
        lines,
        key=lambda line: (
            methods.index(line.method), configurations.index(line.configuration), line.shots, line.images_per_class or 0
        ),
    )  # fmt: skip


def _setting(table: pd.DataFrame) -> str:
    found = [", ".join(dict.fromkeys(table["backbone"]))]
    amounts, seeds = (sorted(set(table[name].dropna())) for name in ("images_per_class", "seed"))
    if len(amounts) == 1:
        found.append(f"{counted(amounts[0], 'synthetic image')} per class")
    if seeds:
        found.append(f"seeds {', '.join(map(str, seeds))}")
    return "; ".join(found)


def _average(protocol: Protocol, scores: Sequence[Score]) -> Score:
    means = {
        metric: sum(one.means[metric] for one in scores) / len(scores)
        for metric in protocol.metrics
        if all(metric in one.means for one in scores)
    }
    done, wanted = sum(one.done for one in scores), sum(one.wanted for one in scores)
    return Score(_with_harmonic(means), done, wanted)


def _with_harmonic(means: Mapping[str, float]) -> dict[str, float]:
    return {**means} | {
        metric: float(harmonic_mean(means[first], means[second]))
        for metric, (first, second) in HARMONIC.items()
        if first in means and second in means
    }
