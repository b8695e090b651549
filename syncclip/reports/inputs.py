"""Read the files of a study, a run or a synthetic dataset for its report; none of them is required."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import pandas as pd
from pydantic import AfterValidator, TypeAdapter, ValidationError

from syncclip import storage
from syncclip.core.formats import parse_yaml
from syncclip.core.settings import UserError, first_error
from syncclip.core.text import first_line
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.evaluation.metrics import METRIC_HEADINGS
from syncclip.shards.markers import markers
from syncclip.shards.reader import ShardSet
from syncclip.storage.contents import CONTENTS
from syncclip.studies import outputs
from syncclip.synthetic_sets.imported import read_set
from syncclip.training.run_folder import METRICS, RECORD, digest_of

Kind = Literal["study", "run", "set"]
T = TypeVar("T")

SIGNS: dict[Kind, str] = {"study": outputs.TABLE, "run": "results.json", "set": "plan.json"}
"""File that identifies what a folder holds; the first that exists decides."""


def _check_values(content: dict[str, Any]) -> dict[str, Any]:
    """Reject integers that are not representable as floats, and class lists of another type."""
    values: list[Any] = [content]
    for value in values:
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise ValueError("it has a number that is too large")
        values.extend(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
    for name, kind in (("classnames", str), ("per_class", dict)):
        entries = content.get(name) or []
        if not isinstance(entries, list) or not all(isinstance(entry, kind) for entry in entries):
            raise ValueError(f"its {name} are not a list of classes")
    return content


_OBJECT = TypeAdapter(Annotated[dict[str, Any], AfterValidator(_check_values)])


@dataclass
class Inputs:
    """Content of the files; missing files are empty, and `notes` reports those that a reader would miss.

    Attributes:
        table: a row for each finished run of the study.
        results: run name -> its results.json; the name of a single run is "".
        record, history: run.json and metrics.jsonl of a single run.
        plan: plan.json of the synthetic dataset.
        owner, folder_owner: identity of the synthetic dataset, and of the folder's content.
        shards, images, seconds, rejects: of the synthetic dataset, from the markers; `seconds` of one generator.
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
        """Section of the recipe; {} if missing."""
        section = self.recipe.get(name)
        return section if isinstance(section, dict) else {}


def read_inputs(url: str) -> Inputs:
    """Read a folder or URL; for a recipe's folder, the study in it.

    A file that can't be read becomes a note, not an error.

    Raises:
        UserError: the folder holds neither a study, nor a run, nor a synthetic dataset.
    """
    names = set(storage.listdir(url))
    if "study" in names and not names & set(SIGNS.values()):  # a recipe's folder
        url = storage.join(url, "study")
        names = set(storage.listdir(url))
    kind = next((kind for kind, sign in SIGNS.items() if sign in names), None)
    if kind is None:
        reason = f"it has no {', '.join(SIGNS.values())}" if storage.exists(url) else "it doesn't exist"
        raise UserError(f"cannot report on {url}: {reason}; give the folder of a study, a run or a synthetic dataset")
    inputs = Inputs(url, kind)

    roots = {"study": outputs.STATE, "run": RECORD, "set": SIGNS["set"]}
    owner = storage.read_owner(storage.join(url, root)) if (root := roots[kind]) in names else None
    inputs.folder_owner = owner or storage.NOBODY
    storage.read_verified(storage.join(url, SIGNS[kind]), owner)  # required

    def read(name: str, parse: Callable[[bytes], T], default: T, owner: str | None = owner) -> T:
        if name not in names:
            return default
        return _parsed(inputs, name, lambda: parse(storage.read_verified(storage.join(url, name), owner)), default)

    none: tuple[str, dict[str, Any]] = ("", {})
    inputs.recipe_text, inputs.recipe = read("recipe.yaml", _recipe, none)
    if kind == "study":
        inputs.state = read(outputs.STATE, TypeAdapter(outputs.StudyState).validate_json, None)
        inputs.table = read(outputs.TABLE, _cells, None)
        inputs.datasets = read(outputs.DATASETS, _cells, None)
        inputs.fits = read(outputs.FIT, TypeAdapter(outputs.Fits).validate_json, None)
        inputs.data_efficiency = read(outputs.DATA_EFFICIENCY, TypeAdapter(outputs.DataEfficiency).validate_json, None)
        inputs.comparisons = read(outputs.COMPARISONS, TypeAdapter(list[outputs.Comparison]).validate_json, [])
        inputs.shift = read(outputs.SHIFT, TypeAdapter(outputs.StudyShift).validate_json, None)
        of_shift = storage.identity(inputs.shift.key) if inputs.shift else None
        inputs.features = read(outputs.FEATURES, _frame, None, of_shift)
        inputs.cost = read(outputs.COST, TypeAdapter(outputs.Cost).validate_json, inputs.cost)
        _read_results(inputs)
    elif kind == "run":
        inputs.results = {"": read("results.json", _results, {})}
        inputs.record = read("run.json", _OBJECT.validate_json, {})
        if METRICS in names:
            lines = partial(storage.read_bytes, storage.join(url, METRICS))
            inputs.history = _parsed(inputs, METRICS, lambda: _history(inputs.record, lines()), [])
    _read_set(inputs)
    _read_dataset(inputs)
    _note_missing(inputs)
    return inputs


def _read_results(inputs: Inputs) -> None:
    """Read the results of a study's runs, all at once."""
    cells = storage.join(inputs.url, outputs.CELLS)
    paths = {f"{cells}/{name}/{SIGNS['run']}": name for name in storage.listdir(cells)}
    states = {cell.cell: cell for cell in inputs.state.cells} if inputs.state else {}
    owners = {path: storage.identity(states[name].hash if name in states else "") for path, name in paths.items()}
    missing = set(paths)

    def leave_out(path: str, error: storage.DamagedError) -> None:
        missing.discard(path)
        inputs.notes.append(f"{str(error).partition(';')[0]}; {paths[path]} is left out.")

    for path, data in storage.read_many(list(paths), leave_out, owners).items():
        missing.discard(path)
        parse = partial(_OBJECT.validate_json, data)
        inputs.results[paths[path]] = _parsed(inputs, f"results.json of {paths[path]}", parse, {})
    done = {name for name, state in states.items() if state.status == "done"}
    inputs.notes += [f"{path} is missing." for path in sorted(missing) if paths[path] in done]


def _note_missing(inputs: Inputs) -> None:
    """Note removed files that `contents.json` lists."""
    url = inputs.url
    try:
        missing = sorted({*(storage.read_contents(url) or ())} - {*storage.sizes(url)})
    except UserError as error:
        inputs.notes.append(f"{first_line(error)}.")
        return
    inputs.notes += [f"{name} is missing, though {CONTENTS} lists it." for name in missing]


def _read_set(inputs: Inputs) -> None:
    """Open the synthetic dataset: that of the study or recipe, the folder itself, or one beside it."""
    local = storage.is_local(inputs.url)
    parent = (
        str(storage.local_path(inputs.url).resolve().parent) if local else inputs.url.rstrip("/").rpartition("/")[0]
    )
    root, name = inputs.section("storage").get("root"), inputs.recipe.get("name")
    candidates = [
        inputs.state.synthetic if inputs.state else None,
        inputs.section("training").get("synthetic"),
        inputs.url,
        f"{inputs.url.rstrip('/')}/synthetic",
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
                _note_missing_shards(inputs, folder)
                inputs.seconds = math.fsum(marker.seconds for marker in shards)
                inputs.rejects.update(sum((Counter(marker.rejects) for marker in shards), Counter()))
                inputs.synthetic = images
            inputs.set_files = sorted(names)
        except Exception as error:
            inputs.notes.append(
                f"The synthetic dataset at {folder} could not be read and is left out ({_reason(error)})."
            )
        break


def _note_missing_shards(inputs: Inputs, folder: str) -> None:
    try:
        plan = read_set(folder)
    except UserError:
        return  # an invalid plan doesn't give the number of shards
    planned = 0 if plan is None else len(plan.shards())
    if planned > inputs.shards:
        missing = f"{planned - inputs.shards} of its {planned} shards are missing or damaged"
        inputs.notes.append(f"The synthetic dataset at {folder} is not complete: {missing}.")


def _read_dataset(inputs: Inputs) -> None:
    """Load the dataset; class names are its own, the study's, or those of the synthetic dataset's plan."""
    named = (inputs.state.dataset if inputs.state else None) or inputs.plan.get("dataset")
    settings = inputs.section("dataset") or ({"name": named} if named else {})
    if settings and not (inputs.state and inputs.state.datasets):  # the reports of a suite's datasets have the images
        try:
            inputs.dataset = load_dataset(DatasetSettings(**settings))
        except Exception as error:
            inputs.notes.append(f"The dataset's images are not available and are left out ({_reason(error)}).")
    names = inputs.state.classnames if inputs.state else inputs.plan.get("classnames") or []
    inputs.classnames = [str(name) for name in (inputs.dataset.classnames if inputs.dataset else names)]
    inputs.base = inputs.state.base if inputs.state else (len(inputs.classnames) + 1) // 2


def _parsed(inputs: Inputs, what: str, parse: Callable[[], T], default: T) -> T:
    """The result of `parse`; if it fails, the default and a note."""
    try:
        return parse()
    except Exception as error:  # parsers raise many types for damaged files
        inputs.notes.append(f"{what} could not be read and is left out ({_reason(error)}).")
        return default


def _reason(error: Exception) -> str:
    return first_error(error) if isinstance(error, ValidationError) else first_line(error)


def _history(record: Mapping[str, Any], data: bytes) -> list[dict[str, Any]]:
    """Lines of a run's metrics, verified against the checksum in the record of a finished run."""
    if (record.get("logs") or {}).get(METRICS) not in (None, digest_of([data])):
        raise ValueError("its checksum does not match")
    return [*map(_OBJECT.validate_json, data.splitlines())]


def _results(data: bytes) -> dict[str, Any]:
    """Results of a run, with at least one metric."""
    results = _OBJECT.validate_json(data)
    metrics = [results[key] for key in METRIC_HEADINGS if results.get(key) is not None]
    if not metrics or not all(isinstance(value, int | float) for value in metrics):
        raise ValueError("it has no metrics, or some that are not numbers")
    return results


def _frame(data: bytes) -> pd.DataFrame | None:
    table: pd.DataFrame = storage.read_parquet(data).to_pandas()
    return table


def _cells(data: bytes) -> pd.DataFrame | None:
    """Table of a study's runs; columns of scores may be missing."""
    table = _frame(data)
    wanted = ("cell", "configuration", "method", "data", "images_per_class")
    if table is not None and (missing := [name for name in wanted if name not in table]):
        raise ValueError(f"it has no column {missing[0]!r}")
    return table


def _recipe(data: bytes) -> tuple[str, dict[str, Any]]:
    """Text and values of a recipe."""
    text = data.decode()
    values = parse_yaml(text, "recipe.yaml")
    if not isinstance(values, dict):
        raise ValueError("it is not a mapping")
    return text, {str(key): value for key, value in values.items()}
