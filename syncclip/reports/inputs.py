"""Read the files of a study, run or synthetic dataset for a report; any file may be missing or corrupt."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

import pandas as pd
from pydantic import AfterValidator, TypeAdapter, ValidationError

from syncclip import storage
from syncclip.core.formats import parse_yaml
from syncclip.core.settings import UserError
from syncclip.core.text import first_line
from syncclip.core.validation_errors import first_error
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.evaluation.metrics import METRIC_HEADINGS
from syncclip.shards.markers import markers
from syncclip.shards.reader import ShardSet
from syncclip.storage.documents import CONTENTS
from syncclip.studies import outputs
from syncclip.training.run_folder import METRICS, RECORD, digest_of

Kind = Literal["study", "run", "set"]
T = TypeVar("T")

SIGNS: dict[Kind, str] = {"study": outputs.TABLE, "run": "results.json", "set": "plan.json"}
"""Kind of folder -> file that identifies the kind, in order of precedence."""
ROOTS: dict[Kind, str] = {"study": outputs.STATE, "run": RECORD, "set": SIGNS["set"]}
"""Kind of folder -> file whose owner also owns the other files in the folder."""


def _check_values(content: dict[str, Any]) -> dict[str, Any]:
    """Raise a `ValueError` for integers that exceed 64 bits and for class lists of the wrong type."""
    values: list[Any] = [content]
    for value in values:
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise ValueError("the file contains an integer that exceeds 64 bits")
        values.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
    for name, entry_type in (("classnames", str), ("per_class", dict)):
        entries = content.get(name) or []
        if not isinstance(entries, list) or not all(isinstance(entry, entry_type) for entry in entries):
            raise ValueError(f"{name} must be a list of classes")
    return content


_OBJECT = TypeAdapter(Annotated[dict[str, Any], AfterValidator(_check_values)])


@dataclass
class Inputs:
    """Content of a report's input files.

    If a file is missing, its attributes keep their default values; `notes` lists missing and corrupt files.

    Attributes:
        table: one row per finished run of the study.
        results: run name -> content of results.json; the name is "" if the report covers a single run.
        record, history: content of run.json and metrics.jsonl of a single run.
        plan: content of plan.json of the synthetic dataset.
        owner, folder_owner: owner of the synthetic dataset, and owner of the files in the folder.
        shards, images, seconds, rejects: totals over the shard markers; `seconds` is generator time.
    """

    url: str
    kind: Kind
    recipe_text: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    state: outputs.StudyState | None = None
    table: pd.DataFrame | None = None
    datasets: pd.DataFrame | None = None
    fits: outputs.Fits | None = None
    data_efficiency: outputs.DataEfficiency | None = None
    comparisons: list[outputs.Comparison] = field(default_factory=list)
    shift: outputs.StudyShift | None = None
    features: pd.DataFrame | None = None
    cost: outputs.Cost = field(default_factory=outputs.Cost)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)
    synthetic: ShardSet | None = None
    set_files: list[str] = field(default_factory=list)
    owner: str = storage.NOBODY
    folder_owner: str = storage.NOBODY
    shards: int = 0
    images: int = 0
    seconds: float = 0.0
    rejects: Counter[str] = field(default_factory=Counter)
    dataset: Dataset | None = None
    classnames: list[str] = field(default_factory=list)
    base: int = 0
    notes: list[str] = field(default_factory=list)

    def section(self, name: str) -> dict[str, Any]:
        """Return a section of the recipe, or {} if the section is missing."""
        section = self.recipe.get(name)
        return section if isinstance(section, dict) else {}


def read_inputs(url: str) -> Inputs:
    """Read the files in a folder or URL, or in its `study` subfolder. Corrupt files are noted in the report.

    Raises:
        UserError: the folder contains no study, run or synthetic dataset.
    """
    names = set(storage.listdir(url))
    if "study" in names and not names & set(SIGNS.values()):
        url = storage.join(url, "study")
        names = set(storage.listdir(url))
    kind = next((kind for kind, sign in SIGNS.items() if sign in names), None)
    if kind is None:
        fix = f"it has no {', '.join(SIGNS.values())}; pass the folder of a study, run or synthetic dataset"
        raise storage.wrong_folder(url, "a finished study, run or synthetic dataset", fix)
    inputs = Inputs(url, kind)

    owner = storage.read_owner(storage.join(url, ROOTS[kind])) if ROOTS[kind] in names else None
    inputs.folder_owner = owner or storage.NOBODY
    storage.read_verified(storage.join(url, SIGNS[kind]), owner)  # raises if it is corrupt

    def read(name: str, parse: Callable[[bytes], T], default: T, owner: str | None = owner) -> T:
        if name not in names:
            return default
        return _parsed(inputs, name, lambda: parse(storage.read_verified(storage.join(url, name), owner)), default)

    inputs.recipe_text, inputs.recipe = read("recipe.yaml", _parse_recipe, ("", inputs.recipe))
    if kind == "study":
        inputs.state = read(outputs.STATE, TypeAdapter(outputs.StudyState).validate_json, None)
        inputs.table = read(outputs.TABLE, _parse_runs, None)
        inputs.datasets = read(outputs.DATASETS, _parse_runs, None)
        inputs.fits = read(outputs.FIT, TypeAdapter(outputs.Fits).validate_json, None)
        inputs.data_efficiency = read(outputs.DATA_EFFICIENCY, TypeAdapter(outputs.DataEfficiency).validate_json, None)
        inputs.comparisons = read(outputs.COMPARISONS, TypeAdapter(list[outputs.Comparison]).validate_json, [])
        inputs.shift = read(outputs.SHIFT, TypeAdapter(outputs.StudyShift).validate_json, None)
        shift_owner = storage.identity(inputs.shift.key) if inputs.shift else None
        inputs.features = read(outputs.FEATURES, _parse_table, None, shift_owner)
        inputs.cost = read(outputs.COST, TypeAdapter(outputs.Cost).validate_json, inputs.cost)
        _read_results(inputs)
    elif kind == "run":
        inputs.results = {"": read("results.json", _parse_results, {})}
        inputs.record = read("run.json", _OBJECT.validate_json, {})
        if METRICS in names:  # this file has no checksum of its own
            path = storage.join(url, METRICS)
            inputs.history = _parsed(inputs, METRICS, lambda: _history(inputs.record, storage.read_bytes(path)), [])
    _read_datasets(inputs)
    try:
        missing = sorted({*(storage.read_contents(url) or ())} - names)
        inputs.notes += [f"{CONTENTS} lists {name}, but this file is missing." for name in missing]
    except UserError as error:
        inputs.notes.append(f"{first_line(error)}.")
    return inputs


def _read_results(inputs: Inputs) -> None:
    """Read the results of all runs of a study in one batch."""
    cells = storage.join(inputs.url, outputs.CELLS)
    paths = {f"{cells}/{name}/{SIGNS['run']}": name for name in storage.listdir(cells)}
    states = {cell.cell: cell for cell in inputs.state.cells} if inputs.state else {}
    owners = {path: storage.identity(states[name].hash if name in states else "") for path, name in paths.items()}
    missing = set(paths)

    def report(path: str, error: storage.DamagedError) -> None:
        missing.discard(path)
        inputs.notes.append(f"{str(error).partition(';')[0]}; {paths[path]} was omitted.")

    for path, data in storage.read_many(list(paths), report, owners).items():
        missing.discard(path)
        parse = partial(_OBJECT.validate_json, data)
        inputs.results[paths[path]] = _parsed(inputs, f"results.json of {paths[path]}", parse, {})
    done = {name for name, state in states.items() if state.status == "done"}
    inputs.notes += [f"{path} is missing." for path in sorted(missing) if paths[path] in done]


def _read_datasets(inputs: Inputs) -> None:
    """Open the synthetic dataset and the real dataset, and set the class names.

    The study or the recipe specifies the synthetic dataset; otherwise, the folder, a subfolder and the parent are
    searched. The class names are those of the real dataset, the study or the synthetic dataset's plan.
    """
    url = inputs.url.rstrip("/")
    parent = str(storage.local_path(url).resolve().parent) if storage.is_local(url) else url.rpartition("/")[0]
    root, name = inputs.section("storage").get("root"), inputs.recipe.get("name")
    candidates = [
        inputs.state.synthetic if inputs.state else None,
        inputs.section("training").get("synthetic"),
        inputs.url,
        f"{url}/synthetic",
        f"{parent}/synthetic",
        f"{root}/{name}/synthetic" if root and name else None,
    ]
    for folder in [str(candidate) for candidate in candidates if candidate]:
        names = set(storage.listdir(folder))
        plan = next((name for name in ("plan.json", "imported.json") if name in names), None)
        if plan is None:
            continue
        try:
            inputs.plan = _OBJECT.validate_json(storage.read_verified(storage.join(folder, plan)))
            if any(name.endswith("_stats.json") for name in names):
                inputs.owner = storage.read_owner(storage.join(folder, plan))
                images, shards = ShardSet(folder), list(markers(folder, owner=inputs.owner))
                inputs.shards, inputs.images = len(shards), sum(marker.count for marker in shards)
                if (planned := _planned_shards(inputs.plan)) > inputs.shards:
                    missing = f"{planned - inputs.shards} of its {planned} shards are missing or corrupt"
                    inputs.notes.append(f"The synthetic dataset at {folder} is incomplete: {missing}.")
                inputs.seconds = math.fsum(marker.seconds for marker in shards)
                inputs.rejects.update(sum((Counter(marker.rejects) for marker in shards), Counter()))
                inputs.synthetic = images
            inputs.set_files = sorted(names)
        except Exception as error:
            inputs.notes.append(
                f"The synthetic dataset at {folder} could not be read and was omitted ({_reason(error)})."
            )
        break

    state = inputs.state
    dataset_name = (state.dataset if state else None) or inputs.plan.get("dataset")
    settings = inputs.section("dataset") or ({"name": dataset_name} if dataset_name else {})
    if settings and not (state and state.datasets):  # in a suite, only the report of each dataset shows images
        try:
            inputs.dataset = load_dataset(DatasetSettings(**settings))
        except Exception as error:
            inputs.notes.append(f"The dataset's images are unavailable and were omitted ({_reason(error)}).")
    planned_names = state.classnames if state else inputs.plan.get("classnames") or []
    inputs.classnames = [str(name) for name in (inputs.dataset.classnames if inputs.dataset else planned_names)]
    inputs.base = state.base if state else (len(inputs.classnames) + 1) // 2


def _planned_shards(plan: dict[str, Any]) -> int:
    """Return the number of shards that a synthetic dataset's plan requires, or 0 if the plan is invalid."""
    try:
        amounts = plan["amounts"] if "amounts" in plan else [max(plan["counts"])]
        images = [(high - low) * len(plan["classnames"]) for low, high in pairwise((0, *amounts))]
        return sum(-(-count // plan["shard_size"]) for count in images)
    except (LookupError, TypeError, ValueError, ZeroDivisionError):
        return 0


def _parsed(inputs: Inputs, name: str, parse: Callable[[], T], default: T) -> T:
    """Return the result of `parse`; if it fails, add a note and return the default."""
    try:
        return parse()
    except Exception as error:  # parsers raise many exception types for corrupt files
        inputs.notes.append(f"{name} could not be read and was omitted ({_reason(error)}).")
        return default


def _reason(error: Exception) -> str:
    return first_error(error) if isinstance(error, ValidationError) else first_line(error)


def _history(record: Mapping[str, Any], data: bytes) -> list[dict[str, Any]]:
    """Parse the metrics of a run; for a finished run, verify the checksum in run.json."""
    if (record.get("logs") or {}).get(METRICS) not in (None, digest_of([data])):
        raise ValueError("the checksum does not match")
    return [*map(_OBJECT.validate_json, data.splitlines())]


def _parse_results(data: bytes) -> dict[str, Any]:
    """Parse the results of a run, which must contain at least one metric."""
    results = _OBJECT.validate_json(data)
    metrics = [results[key] for key in METRIC_HEADINGS if results.get(key) is not None]
    if not metrics or not all(isinstance(value, int | float) for value in metrics):
        raise ValueError("the file contains no metrics or a non-numeric metric")
    return results


def _parse_table(data: bytes) -> pd.DataFrame | None:
    table: pd.DataFrame = storage.read_parquet(data).to_pandas()
    return table


def _parse_runs(data: bytes) -> pd.DataFrame | None:
    """Parse a table of runs; score columns may be missing."""
    table: pd.DataFrame = storage.read_parquet(data).to_pandas()
    for name in ("cell", "configuration", "method", "data", "images_per_class"):
        if name not in table:
            raise ValueError(f"the column {name!r} is missing")
    return table


def _parse_recipe(data: bytes) -> tuple[str, dict[str, Any]]:
    """Return a recipe's text and its parsed values."""
    text = data.decode()
    values = parse_yaml(text, "recipe.yaml")
    if not isinstance(values, dict):
        raise ValueError("the recipe is not a mapping")
    return text, {str(key): value for key, value in values.items()}
