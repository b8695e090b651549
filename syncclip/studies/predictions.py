"""What every cell answered on every test image, in one small table from which all numbers of a study follow again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.evaluation.metrics import METRICS
from syncclip.recipe.recipe import Recipe
from syncclip.recipe.study import Configuration
from syncclip.studies import analysis, outputs
from syncclip.studies.analysis import Evidence
from syncclip.studies.statistics.metrics import Answers, mean_metrics, run_metrics

SCHEMA = pa.schema(
    [
        ("dataset", pa.int16()),
        ("configuration", pa.string()),
        ("images_per_class", pa.int32()),
        ("seed", pa.int64()),
        ("label", pa.int32()),
        ("novel", pa.bool_()),
        ("within_split", pa.bool_()),
        ("all_classes", pa.bool_()),
        ("order", pa.int32()),
    ]
)
"""Of predictions.parquet, see `outputs`."""

TOLERANCE = 1e-6
"""By how many points a number may be off on another machine, where sums are taken in another order."""


def write(evidence: Evidence, url: str, owner: str) -> None:
    """Write the table into a study's folder; `owner` is the identity of the study, see `storage.seals`."""
    parts = [
        pa.table(
            {
                "dataset": np.full(len(one.label), dataset),
                "configuration": pa.array([configuration] * len(one.label)),
                "images_per_class": pa.array([amount] * len(one.label), pa.int32()),
                "seed": pa.array([seed] * len(one.label), pa.int64()),
                "label": one.label,
                "novel": one.novel,
                "within_split": one.own[0],
                "all_classes": one.open[0],
                "order": _order(one.base_score[0]),
            }
        ).cast(SCHEMA)
        for (configuration, amount, seed), answers in evidence.cells.items()
        for dataset, one in enumerate(answers)
    ]
    table = pa.concat_tables(parts) if parts else SCHEMA.empty_table()
    storage.write_table(storage.join(url, outputs.PREDICTIONS), table, owner)


def _order(scores: np.ndarray) -> np.ndarray:
    """Places of the scores among each other, equal ones alike, all that OpenworldAUC needs; -1 where none is known."""
    if not np.isfinite(scores).all():
        return np.full(len(scores), -1)
    places: np.ndarray = np.unique(scores, return_inverse=True)[1]
    return places


def read(url: str, configurations: Sequence[Configuration], owner: str) -> Evidence:
    """The evidence of a study's folder; `owner` is the identity of the study, see `storage.seals`.

    Raises:
        UserError: it has no such table, or that is damaged.
    """
    place = storage.join(url, outputs.PREDICTIONS)
    if not storage.exists(place):
        raise UserError(f"{url}: there is no {outputs.PREDICTIONS}, which a study writes when it ends; run it again")
    table = storage.read_table(place, SCHEMA.names, "run the study again", owner=owner).to_pandas()
    cells: dict[tuple[str, int | None, int | None], tuple[Answers, ...]] = {}
    keys = ["configuration", "images_per_class", "seed"]
    groups: Any = table.groupby(keys, sort=False, dropna=False)
    for (configuration, amount, seed), rows in groups:
        cell = str(configuration), None if pd.isna(amount) else int(amount), None if pd.isna(seed) else int(seed)
        cells[cell] = tuple(_answers(of_dataset) for _, of_dataset in rows.groupby("dataset", sort=True))
    return Evidence(configurations, cells)


def _answers(rows: pd.DataFrame) -> Answers:
    order, label, novel = (rows[name].to_numpy() for name in ("order", "label", "novel"))
    base = int(label[novel].min()) if novel.any() else int(label.max()) + 1
    score = np.where(order < 0, np.nan, order).astype(np.float64)
    half, opened = (rows[name].to_numpy()[None] for name in ("within_split", "all_classes"))
    return Answers(half, opened, score[None], label.astype(np.int64), base)


@dataclass(frozen=True)
class Recomputed:
    """The numbers of a study, computed again from its answers.

    Attributes:
        means: one row for each configuration and amount: its seeds, and the mean of every metric.
        comparisons: as `comparisons.json` holds them.
        differ: a sentence for each number that is another in the study's files.
        numbers: how many were held baseline these.
    """

    means: pd.DataFrame
    comparisons: list[outputs.Comparison]
    differ: list[str]
    numbers: int


def recompute(url: str) -> Recomputed:
    """Compute every mean, interval and curve of a study's folder again, and hold it baseline the study's files.

    Raises:
        UserError: there is no study, or it has no answers.
    """
    owner = storage.read_owner(storage.join(url, outputs.STATE))
    storage.read_sealed(storage.join(url, outputs.RECIPE), owner)
    recipe = Recipe.load(storage.join(url, outputs.RECIPE), own=False)
    evidence = read(url, recipe.study.configurations, owner)
    rows = [
        {"configuration": configuration, "images_per_class": amount, "seed": seed, **_scores(answers)}
        for (configuration, amount, seed), answers in evidence.cells.items()
    ]
    keys = ["configuration", "images_per_class", "seed"]
    table = pd.DataFrame(rows, columns=[*keys, *METRICS])
    place = storage.join(url, outputs.TABLE)
    stored = storage.read_table(place, [*keys, *METRICS], "run the study again", owner=owner).to_pandas()
    pairs = analysis.comparisons(evidence, recipe.study)
    fit = outputs.read_json(storage.join(url, outputs.FIT), owner)
    seen = fit.get("seen")
    if not isinstance(seen, dict) or not all(isinstance(share, float | int) for share in seen.values()):
        raise UserError(f"{url}: {outputs.FIT} tells no shares that were seen; run the study again")
    series = analysis.series(evidence, recipe.study)
    curves = analysis.fits(series, recipe.study, recipe.evaluation.split, seen)
    stored_worth = outputs.read_json(storage.join(url, outputs.DATA_EFFICIENCY), owner)
    classes = len(outputs.read_json(storage.join(url, outputs.STATE), owner).get("classnames", ()))
    speed = stored_worth.get("images_per_hour")
    if not isinstance(speed, float | int | None):
        raise UserError(f"{url}: {outputs.DATA_EFFICIENCY} tells no speed of generation; run the study again")
    worth = analysis.worth(evidence, series, recipe.study, recipe.dataset.shots, speed, classes)
    found = {
        outputs.TABLE: ([*_by_cell(table, keys)], [*_by_cell(stored, keys)]),
        outputs.COMPARISONS: (
            [asdict(one) for one in pairs],
            outputs.read_list(storage.join(url, outputs.COMPARISONS), owner),
        ),
        outputs.FIT: (outputs.plain(curves), fit),
        outputs.DATA_EFFICIENCY: (outputs.plain(worth), stored_worth),
    }
    numbers, differ = 0, list[str]()
    for name, (ours, theirs) in found.items():
        for place, one, other in _numbers(ours, theirs, name):
            numbers += 1
            if not _same(one, other):
                differ.append(f"{place} is {other}; recomputed it is {one}")
    groups = table.groupby(["configuration", "images_per_class"], sort=False, dropna=False)
    means = groups[[*METRICS]].mean().assign(seeds=groups.size()).reset_index()
    return Recomputed(means, pairs, differ, numbers)


def _scores(answers: Sequence[Answers]) -> dict[str, float]:
    return {name: float(values[0, 0]) for name, values in mean_metrics([run_metrics(one) for one in answers]).items()}


def _by_cell(table: pd.DataFrame, keys: list[str]) -> Iterator[list[float]]:
    """The metrics of each cell, cells in one order."""
    ordered = table.assign(**{key: table[key].astype("object").fillna(-1) for key in keys}).sort_values(keys)
    yield from ordered[[*METRICS]].astype(float).to_numpy().tolist()


def _numbers(ours: Any, theirs: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """(place, ours, theirs) of all numbers of two documents; of parts that one lacks, once."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            yield from _numbers(ours.get(key), theirs.get(key), f"{place}: {key}")
    elif isinstance(ours, list | tuple) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _numbers(one, other, f"{place}[{number}]")
    else:
        yield place, ours, theirs


def _same(ours: Any, theirs: Any) -> bool:
    """Whether they are the same up to rounding; what is not finite is null in a JSON file."""
    one, other = (None if isinstance(one, float) and not math.isfinite(one) else one for one in (ours, theirs))
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(one == other)
