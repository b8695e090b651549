"""Table of a study's predictions, from which all of its results can be recomputed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
from syncclip.studies.statistics.metrics import Outcomes, mean_metrics, run_metrics

SCHEMA = pa.schema(
    {
        "dataset": pa.int16(),
        "configuration": pa.string(),
        "images_per_class": pa.int32(),
        "seed": pa.int64(),
        "label": pa.int32(),
        "novel": pa.bool_(),
        "within_split": pa.bool_(),
        "all_classes": pa.bool_(),
        "order": pa.int32(),
    }
)
"""Columns of a study's predictions.parquet."""

TOLERANCE = 1e-6
"""Tolerance in percentage points for recomputed numbers, whose order of summation depends on the machine."""


def write(evidence: Evidence, url: str, owner: str) -> None:
    """Write the predictions of a study to predictions.parquet in its folder."""
    parts = [
        pa.table(
            {
                "dataset": np.full(len(tested.label), dataset),
                "configuration": pa.array([configuration] * len(tested.label)),
                "images_per_class": pa.array([n] * len(tested.label), pa.int32()),
                "seed": pa.array([seed] * len(tested.label), pa.int64()),
                "label": tested.label,
                "novel": tested.novel,
                "within_split": tested.within_split[0],
                "all_classes": tested.all_classes[0],
                "order": _ranks(tested.base_score[0]),
            }
        ).cast(SCHEMA)
        for (configuration, n, seed), outcomes in evidence.cells.items()
        for dataset, tested in enumerate(outcomes)
    ]
    table = pa.concat_tables(parts) if parts else SCHEMA.empty_table()
    storage.write_table(storage.join(url, outputs.PREDICTIONS), table, owner)


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Return dense ranks of the scores, which suffice for OpenworldAUC; all ranks are -1 if a score is unknown."""
    if not np.isfinite(scores).all():
        return np.full(len(scores), -1)
    ranks: np.ndarray = np.unique(scores, return_inverse=True)[1]
    return ranks


def read(url: str, configurations: Sequence[Configuration], owner: str) -> Evidence:
    """Read the predictions of a study from its folder.

    Raises:
        UserError: predictions.parquet is missing or corrupt.
    """
    path = storage.join(url, outputs.PREDICTIONS)
    if not storage.exists(path):
        raise UserError(f"{url}: {outputs.PREDICTIONS} is missing; run the study again to complete its files")
    table = storage.read_table(path, SCHEMA.names, "run the study again", owner=owner).to_pandas()
    cells: dict[tuple[str, int | None, int | None], tuple[Outcomes, ...]] = {}
    groups: Any = table.groupby(["configuration", "images_per_class", "seed"], sort=False, dropna=False)
    for (configuration, n, seed), rows in groups:
        key = str(configuration), None if pd.isna(n) else int(n), None if pd.isna(seed) else int(seed)
        cells[key] = tuple(_outcomes(tested) for _, tested in rows.groupby("dataset", sort=True))
    return Evidence(configurations, cells)


def _outcomes(rows: pd.DataFrame) -> Outcomes:
    order, label, novel = (rows[name].to_numpy() for name in ("order", "label", "novel"))
    base = int(label[novel].min()) if novel.any() else int(label.max()) + 1
    score = np.where(order < 0, np.nan, order).astype(np.float64)
    within_split, all_classes = (rows[name].to_numpy()[None] for name in ("within_split", "all_classes"))
    return Outcomes(within_split, all_classes, score[None], label.astype(np.int64), base)


@dataclass(frozen=True)
class Recomputed:
    """Results recomputed from the predictions of a study.

    Attributes:
        means: one row per configuration and number of images, with the number of seeds and the mean of each metric.
        fits: fitted curves; None for a study with several pretrained tags.
        data_efficiency: data efficiency; None for a study with several pretrained tags.
        differ: one message per value that differs from the study's files.
        numbers: number of values that were compared.
    """

    means: pd.DataFrame
    comparisons: list[outputs.Comparison]
    fits: outputs.Fits | None
    data_efficiency: outputs.DataEfficiency | None
    differ: list[str]
    numbers: int


def read_study(url: str) -> tuple[Recipe, Evidence, str]:
    """Return a study's recipe, the outcomes of its runs, and its owner ID.

    Raises:
        UserError: a file is missing or corrupt.
    """
    if not storage.exists(state := storage.join(url, outputs.STATE)):
        raise storage.wrong_folder(url, "a study", f"cannot read {outputs.STATE}: not found; use the folder of a study")
    owner = storage.read_owner(state)
    storage.read_verified(storage.join(url, outputs.RECIPE), owner)
    recipe = Recipe.load(storage.join(url, outputs.RECIPE), own=False)
    return recipe, read(url, recipe.study.evaluated, owner), owner


def recompute(url: str) -> Recomputed:
    """Recompute all means, intervals and curves of a study, and compare them with the stored values.

    Raises:
        UserError: the study or its predictions are missing.
    """
    recipe, evidence, owner = read_study(url)
    keys = ["configuration", "images_per_class", "seed"]
    rows = []
    for key, outcomes in evidence.cells.items():
        metrics = mean_metrics([run_metrics(tested) for tested in outcomes])
        rows.append([*key, *(float(metrics[name][0, 0]) for name in METRICS)])
    table = pd.DataFrame(rows, columns=[*keys, *METRICS])
    path = storage.join(url, outputs.TABLE)
    stored_table = storage.read_table(path, [*keys, *METRICS], "run the study again", owner=owner).to_pandas()
    comparisons = analysis.comparisons(evidence, recipe.study)
    stored_fits = outputs.read_json(storage.join(url, outputs.FIT), owner)
    seen = stored_fits.get("seen")
    if not isinstance(seen, dict) or not all(isinstance(share, float | int) for share in seen.values()):
        raise UserError(f"{url}: {outputs.FIT} contains no valid 'seen'; run the study again")
    series = analysis.series(evidence, recipe.study)
    fits = analysis.fits(series, recipe.study, recipe.evaluation.split, seen)
    stored_efficiency = outputs.read_json(storage.join(url, outputs.DATA_EFFICIENCY), owner)
    throughput = stored_efficiency.get("images_per_hour")
    if not isinstance(throughput, float | int | None):
        raise UserError(f"{url}: {outputs.DATA_EFFICIENCY} contains no valid 'images_per_hour'; run the study again")
    classes = len(outputs.read_json(storage.join(url, outputs.STATE), owner).get("classnames", ()))
    efficiency = analysis.data_efficiency(evidence, series, recipe.study, recipe.dataset.shots, throughput, classes)
    stored_comparisons = outputs.read_list(storage.join(url, outputs.COMPARISONS), owner)
    pairs = {
        outputs.TABLE: (_by_cell(table, keys), _by_cell(stored_table, keys)),
        outputs.COMPARISONS: ([asdict(comparison) for comparison in comparisons], stored_comparisons),
        outputs.FIT: (outputs.plain(fits), stored_fits),
        outputs.DATA_EFFICIENCY: (outputs.plain(efficiency), stored_efficiency),
    }
    numbers, differ = compare(pairs)
    groups = table.groupby(keys[:2], sort=False, dropna=False)
    means = groups[[*METRICS]].mean().assign(seeds=groups.size()).reset_index()
    return Recomputed(means, comparisons, fits, efficiency, differ, numbers)


def compare(documents: Mapping[str, tuple[Any, Any]]) -> tuple[int, list[str]]:
    """Compare pairs of recomputed and stored documents, by file name.

    Returns:
        The number of compared values, and a message for each difference.
    """
    leaves = [leaf for name, (computed, stored) in documents.items() for leaf in _leaves(computed, stored, name)]
    return len(leaves), [
        f"{position}: stored value {stored}, recomputed value {computed}"
        for position, computed, stored in leaves
        if not _same(computed, stored)
    ]


def _by_cell(table: pd.DataFrame, keys: list[str]) -> list[list[float]]:
    """Return the metrics of each run, sorted by `keys`."""
    ordered = table.assign(**{key: table[key].astype("object").fillna(-1) for key in keys}).sort_values(keys)
    rows: list[list[float]] = ordered[[*METRICS]].astype(float).to_numpy().tolist()
    return rows


def _leaves(computed: Any, stored: Any, position: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield (position, computed, stored) for each leaf of two documents; a subtree present in only one is a leaf."""
    if isinstance(computed, dict) and isinstance(stored, dict):
        for key in {**computed, **stored}:
            yield from _leaves(computed.get(key), stored.get(key), f"{position}: {key}")
    elif isinstance(computed, list | tuple) and isinstance(stored, list) and len(computed) == len(stored):
        for number, (first, second) in enumerate(zip(computed, stored, strict=True)):
            yield from _leaves(first, second, f"{position}[{number}]")
    else:
        yield position, computed, stored


def _same(computed: Any, stored: Any) -> bool:
    """Return whether two leaves are equal within `TOLERANCE`; non-finite numbers are treated as null."""
    first, second = (
        None if isinstance(value, float) and not math.isfinite(value) else value for value in (computed, stored)
    )
    if isinstance(first, float | int) and isinstance(second, float | int):
        return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(first == second)
