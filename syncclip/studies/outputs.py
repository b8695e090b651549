"""What a study writes: the names of its files, what each holds, and how they are written and read.

study.parquet
    One row for each finished cell: cell, configuration, method, data, images_per_class (null where the configuration
    learns from no
    synthetic image), seed (null for zero-shot), split, every metric of `evaluation.metrics.METRICS`, ece, ece_base,
    ece_novel (all per cent), seconds (of the whole cell), hash.
study.json, fit.json, data_efficiency.json, comparisons.json, shift.json, cost.json
    `StudyState`, `Fits`, `DataEfficiency`, a list of `Comparison`, `StudyShift`, `Cost`.
features.parquet
    The map of both domains: model (frozen or trained), domain (real or synthetic), label, row (of the split, or of the
    synthetic set), x, y.
predictions.parquet
    One row for each finished cell and test image: dataset (0 for the first), configuration, images_per_class, seed,
    label, novel,
    half and open (whether the prediction was right), order (of the images by how much each looks like a base class).
    From it `syncclip recompute` computes study.parquet's accuracies, fit.json, data_efficiency.json
    and comparisons.json again.
progress.json
    How far the study is, for `--status`; see `status.StudyStatus`.
recipe.yaml
    The resolved recipe.
cells/<cell>/
    A run folder for each cell.
tables.md
    The tables as Markdown.

Of a suite, each dataset has such a folder of its own in the study's, named like it. The study's files tell the average
over them, in which a cell counts once it has ended on all; it has no cells, no map and no shift, but

datasets.parquet
    The rows of every dataset's study.parquet, with a column `dataset`.

Numbers that are not finite (an amount that is never reached) are null in JSON.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, TypeAdapter

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.secrets import json_without_secrets
from syncclip.core.settings import DATASET
from syncclip.core.text import counted
from syncclip.evaluation.metrics import Number
from syncclip.studies.statistics.bootstrap import Unit
from syncclip.studies.statistics.data_efficiency import Exchange, Marginal
from syncclip.studies.statistics.scaling_fit import Curve, HeldOut
from syncclip.synthetic_sets.shift import Shift

TABLE, STATE, RECIPE, CELLS = "study.parquet", "study.json", "recipe.yaml", "cells"
DATASETS, PREDICTIONS = "datasets.parquet", "predictions.parquet"
FIT, DATA_EFFICIENCY, COMPARISONS = "fit.json", "data_efficiency.json", "comparisons.json"
SHIFT, FEATURES = "shift.json", "features.parquet"
COST, TABLES, TUNED = "cost.json", "tables.md", "tuned.json"

ALWAYS = TABLE, STATE, RECIPE, FIT, DATA_EFFICIENCY, COMPARISONS, COST, TABLES
"""What every study has once it has run."""

FEW_IMAGES = 100
"""With fewer test images in a half, whatever is said of it is said with a caution."""

Status = Literal["done", "failed", "waiting"]
"""Of a cell."""


@dataclass(frozen=True)
class ConfigurationState:
    """A configuration of the grid."""

    name: str
    method: str
    data: str


@dataclass(frozen=True)
class CellState:
    """A cell of the grid, and what became of it."""

    cell: str
    configuration: str
    images_per_class: int | None
    seed: int | None
    status: Status
    error: str | None
    hash: str
    """Of the run's recipe, see `training.run_folder.RunRecord`; of a suite's cell, of those of all datasets."""


@dataclass(frozen=True)
class StudyState:
    """The grid, and how far it is.

    Attributes:
        base: number of base classes.
        synthetic: URL of the set; None where no configuration learns from one.
        reference: name of the configuration that comparisons are about.
        dropped: amounts beyond what the set holds.
        datasets: of a suite, the folders of each dataset's own study; none of a single dataset.
    """

    name: str
    dataset: Annotated[str, DATASET]
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
        """Identity of the study's files, see `storage.seals`: the grid and its runs, but not how far it is."""
        cells = [dataclasses.replace(cell, status="waiting", error=None) for cell in self.cells]
        return storage.identity(json.dumps(plain(dataclasses.replace(self, cells=cells, synthetic=None))))


@dataclass(frozen=True)
class Fits:
    """Curves of configuration and metric, whose errors are 100 - accuracy.

    Attributes:
        confidence_level: coverage of the intervals.
        resamples: of the bootstrap.
        models: the models of the curve, the best first, for configurations with more amounts than a law needs.
        seen: of each configuration, the share of the synthetic images that its runs at the largest amount have shown.
    """

    confidence_level: float
    resamples: int
    split: str
    curves: Mapping[str, Mapping[str, Curve]]
    models: Mapping[str, Mapping[str, tuple[HeldOut, ...]]] = field(default_factory=dict)
    seen: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DataEfficiency:
    """What the focus configuration's synthetic images are worth, by metric; empty where it is unknown.

    Attributes:
        images_per_hour: of one generator; None where it was not measured.
    """

    configuration: str
    confidence_level: float
    images_per_hour: float | None
    marginal: Mapping[str, tuple[Marginal, ...]]
    exchange: Mapping[str, tuple[Exchange, ...]]


@dataclass(frozen=True)
class Comparison:
    """Points of accuracy, `configuration` minus `baseline`, with the interval over so many seeds and test images.

    Attributes:
        unit: what of the test data was drawn again: its images, its classes, or the datasets.
        smaller_split: test images of the half, of any dataset, that has fewest; None: not known.
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
    images: Annotated[int, Field(validation_alias=AliasChoices("images", "pictures"))]
    unit: Unit = "images"
    smaller_split: int | None = None

    @property
    def caution(self) -> str:
        """What the interval can't show for want of runs or images; empty where there are enough of both."""
        found = ["one seed"] if self.seeds == 1 else []
        if self.smaller_split is not None and self.smaller_split < FEW_IMAGES:
            found.append(f"a half has only {counted(self.smaller_split, 'test image')}")
        return ", ".join(found)


@dataclass(frozen=True)
class StudyShift:
    """The shift of one cell's configuration, under the frozen CLIP and under the trained run; `key` names what was
    measured."""

    cell: str
    configuration: str
    images_per_class: int | None
    seed: int | None
    split: str
    images: Annotated[Mapping[str, int], Field(validation_alias=AliasChoices("images", "pictures"))]
    key: str
    frozen: Shift
    trained: Shift


@dataclass(frozen=True)
class SynthesisCost:
    """What generating the set took; None where it was not measured."""

    images: int
    rejects: Mapping[str, int]
    hours: float
    images_per_second: float | None = None
    wall_hours: float | None = None
    busy_share: float | None = None


@dataclass(frozen=True)
class TrainingCost:
    """What the cells took; None where it was not measured."""

    cells: int = 0
    hours: float = 0.0
    wall_hours: float | None = None
    workers: int | None = None
    busy_share: float | None = None


@dataclass(frozen=True)
class Cost:
    """Hours of work; `synthesis` is None where no configuration learns from synthetic images."""

    synthesis: SynthesisCost | None = None
    training: TrainingCost = field(default_factory=TrainingCost)


def read_cost(url: str, owner: str) -> Cost:
    """The content of cost.json in a study's folder, or of the study that this one extends; zero without the file.

    Args:
        owner: identity of the study, see `storage.seals`.

    Raises:
        DamagedError: it belongs to neither.
    """
    place = storage.join(url, COST)
    if not storage.exists(place):
        return Cost()
    earlier = storage.read_owner(storage.join(url, STATE))
    known = earlier if storage.read_owner(place) == earlier else owner
    return TypeAdapter(Cost).validate_json(storage.read_sealed(place, known))


def added_synthesis(costs: Sequence[SynthesisCost | None]) -> SynthesisCost | None:
    """Several sets' cost as one; None where there is none."""
    known = [one for one in costs if one is not None]
    if not known:
        return None
    images, hours = sum(one.images for one in known), sum(one.hours for one in known)
    walls = [one.wall_hours for one in known if one.wall_hours is not None]
    shares = [(one.busy_share, one.wall_hours) for one in known if one.busy_share is not None and one.wall_hours]
    rejects = sum((Counter(one.rejects) for one in known), Counter[str]())
    return SynthesisCost(
        images=images,
        rejects=dict(rejects),
        hours=hours,
        images_per_second=images / hours / 3600 if hours else None,
        wall_hours=sum(walls) if walls else None,
        busy_share=sum(share * wall for share, wall in shares) / sum(walls) if shares else None,
    )


def plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences and numbers as JSON's values; not finite becomes null."""
    return json.loads(json.dumps(value, default=dataclasses.asdict), parse_constant=lambda _: None)


def write_json(url: str, value: Any, owner: str) -> None:
    """Write what `plain` takes as JSON, whole or not at all; `owner` as of `storage.write_sealed`."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    storage.write_sealed(url, f"{json_without_secrets(text)}\n".encode(), "json", owner)


def read_json(url: str, owner: str | None = None) -> dict[str, Any]:
    """Read a mapping that `write_json` wrote; `owner` as of `storage.read_sealed`."""
    return parse_json(storage.read_sealed(url, owner), url, dict, "run the study again")


def read_list(url: str, owner: str | None = None) -> list[Any]:
    """Read a list that `write_json` wrote; `owner` as of `storage.read_sealed`."""
    return parse_json(storage.read_sealed(url, owner), url, list, "run the study again")
