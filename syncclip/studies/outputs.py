"""Files of a study: their names, contents and JSON format; see docs/file-formats.md.

A suite's study has one subfolder per dataset, which contains the study of that dataset. The suite's own files
contain averages over the datasets, computed from the runs that are finished on every dataset. Non-finite numbers are
written to JSON as null.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.secrets import json_without_secrets
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.evaluation.metrics import Number
from syncclip.studies.statistics.bootstrap import Unit
from syncclip.studies.statistics.data_efficiency import Exchange, GapClosed, Marginal
from syncclip.studies.statistics.scaling_fit import Curve, HeldOut
from syncclip.synthetic_sets.shift import Shift

TABLE, STATE, RECIPE, CELLS = "study.parquet", "study.json", "recipe.yaml", "cells"
DATASETS, PREDICTIONS = "datasets.parquet", "predictions.parquet"
FIT, DATA_EFFICIENCY, COMPARISONS = "fit.json", "data_efficiency.json", "comparisons.json"
SHIFT, FEATURES = "shift.json", "features.parquet"
COST, TABLES, TUNED = "cost.json", "tables.md", "tuned.json"
LEVELS, NAME_KNOWLEDGE, MAP, MAP_CELLS = "levels.json", "name_knowledge.json", "map.json", "map.parquet"
"""Files of a study that is repeated with several pretrained tags; see `levels`."""

ALWAYS = TABLE, STATE, RECIPE, FIT, DATA_EFFICIENCY, COMPARISONS, COST, TABLES
"""Files that every finished study contains."""

FEW_IMAGES = 100
"""Minimum number of test images per split; comparisons based on fewer images have a `caution`."""
FEW_SEEDS = 4
"""Minimum number of seeds; with fewer, intervals are very wide, and comparisons have a `caution`."""

Status = Literal["done", "failed", "waiting"]


@dataclass(frozen=True)
class ConfigurationState:
    """A configuration in the grid."""

    name: str
    method: str
    data: str


@dataclass(frozen=True)
class CellState:
    """A training run in the grid, with its status."""

    cell: str
    configuration: str
    images_per_class: int | None
    seed: int | None
    status: Status
    error: str | None
    hash: str
    """Hash of the run's recipe (see `training.run_folder.RunRecord`); in a suite, a combined hash for all datasets."""


@dataclass(frozen=True)
class StudyState:
    """Grid and progress of a study: the content of study.json.

    Attributes:
        base: number of base classes.
        synthetic: URL of the synthetic dataset; None if no configuration uses one.
        reference: name of the reference configuration.
        dropped: requested numbers of images per class that exceed the synthetic dataset's size.
        datasets: names of a suite's datasets, which are also the names of their subfolders.
    """

    name: str
    dataset: str
    classnames: list[str]
    base: int
    split: str
    synthetic: str | None
    reference: str
    configurations: list[ConfigurationState]
    images_per_class: list[int]
    dropped: list[int]
    seeds: list[int]
    cells: list[CellState]
    datasets: list[str] = field(default_factory=list)

    @property
    def owner(self) -> str:
        """Owner ID of the study's files: a hash of the grid, independent of the progress of its runs."""
        cells = [dataclasses.replace(cell, status="waiting", error=None) for cell in self.cells]
        return storage.identity(json.dumps(plain(dataclasses.replace(self, cells=cells, synthetic=None))))


@dataclass(frozen=True)
class Fits:
    """Scaling curves of the error (100 - accuracy) by configuration and metric.

    Attributes:
        models: held-out errors of the models, for configurations with enough different numbers of images.
        seen: configuration -> share of the synthetic images that its runs used at the largest number of images.
    """

    confidence_level: float
    resamples: int
    split: str
    curves: Mapping[str, Mapping[str, Curve]]
    models: Mapping[str, Mapping[str, tuple[HeldOut, ...]]] = field(default_factory=dict)
    seen: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DataEfficiency:
    """Data efficiency of the reference's synthetic images by metric: marginal value, equivalents and gap closed.

    Attributes:
        images_per_hour: throughput of one generator; None if it was not measured.
    """

    configuration: str
    confidence_level: float
    images_per_hour: float | None
    marginal: Mapping[str, tuple[Marginal, ...]]
    exchange: Mapping[str, tuple[Exchange, ...]]
    gap_closed: Mapping[str, GapClosed] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Paired difference between `configuration` and `baseline` in percentage points, with its confidence interval.

    Attributes:
        unit: resampled unit of the test data.
        smaller_split: number of test images in the smallest split (base or novel) of any dataset.
        simultaneous_low, simultaneous_high: interval that holds simultaneously at all numbers of images for which both
            configurations are compared; NaN for an average.
        averaged_over: numbers of images per class over which the difference is averaged; empty for a single number. For
            an average, `images_per_class` is None.
    """

    configuration: str
    images_per_class: int | None
    baseline: str
    baseline_images_per_class: int | None
    metric: str
    estimate: Number
    low: Number
    high: Number
    confidence_level: float
    seeds: int
    images: int
    unit: Unit
    smaller_split: int
    simultaneous_low: Number = math.nan
    simultaneous_high: Number = math.nan
    averaged_over: Sequence[int] = ()

    @property
    def caution(self) -> str:
        """Comma-separated limits of the interval, such as few seeds or test images; empty if there are none."""
        reasons = [f"only {counted(self.seeds, 'seed')}"] if self.seeds < FEW_SEEDS else []
        if self.smaller_split < FEW_IMAGES:
            reasons.append(f"a split has only {counted(self.smaller_split, 'test image')}")
        return ", ".join(reasons)


@dataclass(frozen=True)
class StudyShift:
    """Domain shift of one training run, for the frozen and the trained model; `key` identifies the measurement."""

    cell: str
    configuration: str
    images_per_class: int | None
    seed: int | None
    split: str
    images: Mapping[str, int]
    key: str
    frozen: Shift
    trained: Shift


@dataclass(frozen=True)
class SynthesisCost:
    """Cost of generating the synthetic dataset; values that were not measured are None."""

    images: int
    rejects: Mapping[str, int]
    hours: float
    images_per_second: float | None = None
    wall_hours: float | None = None
    busy_share: float | None = None


@dataclass(frozen=True)
class TrainingCost:
    """Cost of all training runs and their evaluation; values that were not measured are None."""

    cells: int = 0
    hours: float = 0.0
    wall_hours: float | None = None
    workers: int | None = None
    busy_share: float | None = None


@dataclass(frozen=True)
class Cost:
    """Cost of a study; `synthesis` is None if no configuration uses synthetic images."""

    synthesis: SynthesisCost | None = None
    training: TrainingCost = field(default_factory=TrainingCost)


def read_cost(url: str, owner: str) -> Cost:
    """Read the cost.json of a study or of the study that it extends; return zero cost if the file is missing.

    Raises:
        DamagedError: the file is corrupt or belongs to a different study.
    """
    path = storage.join(url, COST)
    if not storage.exists(path):
        return Cost()
    previous = storage.read_owner(storage.join(url, STATE))
    owner = previous if storage.read_owner(path) == previous else owner
    return TypeAdapter(Cost).validate_json(storage.read_verified(path, owner))


def total_synthesis_cost(costs: Sequence[SynthesisCost | None]) -> SynthesisCost | None:
    """Sum the costs of several synthetic datasets; return None if there are no costs."""
    if not (parts := [cost for cost in costs if cost is not None]):
        return None
    images, hours = sum(cost.images for cost in parts), sum(cost.hours for cost in parts)
    walls = [cost.wall_hours for cost in parts if cost.wall_hours is not None]
    shares = [cost.busy_share * cost.wall_hours for cost in parts if cost.busy_share is not None and cost.wall_hours]
    return SynthesisCost(
        images=images,
        rejects=dict(sum((Counter(cost.rejects) for cost in parts), Counter[str]())),
        hours=hours,
        images_per_second=images / hours / 3600 if hours else None,
        wall_hours=sum(walls) if walls else None,
        busy_share=sum(shares) / sum(walls) if shares else None,
    )


def check_finished(url: str, state: Mapping[str, Any]) -> None:
    """Raise a `UserError` if a run is not finished, according to the content of study.json."""
    cells = state["cells"]
    if waiting := sum(cell["status"] != "done" for cell in cells):
        raise UserError(f"{url}: {waiting} of {len(cells)} training runs are not finished; run the study again")


def plain(value: Any) -> Any:
    """Convert dataclasses, mappings, sequences and numbers to JSON values; non-finite numbers become null."""
    return json.loads(json.dumps(value, default=dataclasses.asdict), parse_constant=lambda _: None)


def write_json(url: str, value: Any, owner: str) -> None:
    """Atomically write a value as JSON with a checksum; see `plain`."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    storage.write_with_checksum(url, f"{json_without_secrets(text)}\n".encode(), "json", owner)


def read_json(url: str, owner: str | None = None) -> dict[str, Any]:
    """Read a JSON object written by `write_json`."""
    return parse_json(storage.read_verified(url, owner), url, dict, "run the study again")


def read_list(url: str, owner: str | None = None) -> list[Any]:
    """Read a JSON list written by `write_json`."""
    return parse_json(storage.read_verified(url, owner), url, list, "run the study again")
