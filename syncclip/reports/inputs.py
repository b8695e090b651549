"""What the report is made from: the files that a study, a run or a synthetic set left behind, none of them required."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import pandas as pd
import yaml
from pydantic import AfterValidator, TypeAdapter, ValidationError

from syncclip import storage
from syncclip.core.formats import parse_yaml
from syncclip.core.secrets import shareable
from syncclip.core.settings import RENAMED, UserError, first_complaint
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
"""The file by which a folder is known for what it is; the first that is there counts."""


def _usable(found: dict[str, Any]) -> dict[str, Any]:
    """An object whose numbers are floats to others, and whose lists of classes are lists."""
    inner: list[Any] = [found]
    for one in inner:
        if isinstance(one, int) and abs(one) >= 1 << 63:
            raise ValueError("it holds a number that is too large")
        inner.extend(one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
    for name, kind in (("classnames", str), ("per_class", dict)):
        there = found.get(name) or []
        if not isinstance(there, list) or not all(isinstance(one, kind) for one in there):
            raise ValueError(f"its {name} are no list of classes")
    return found


_OBJECT = TypeAdapter(Annotated[dict[str, Any], AfterValidator(_usable)])


@dataclass
class Inputs:
    """All that was found. What is missing is empty, and `notes` says so in a sentence where a reader would miss it.

    Attributes:
        table: one row for each finished cell of the study.
        results: cell name -> its results.json; a single run is the cell "".
        record: run.json of a run; `history`: its metrics.jsonl.
        plan: plan.json of the synthetic set.
        owner, folder_owner: identity of the set, and of what the folder holds, see `storage.seals`.
        shards, images, seconds, rejects: of the set, by the markers of its shards; `seconds` of one generator.
    """

    url: str
    kind: Kind
    recipe_text: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    state: outputs.StudyState | None = None
    table: pd.DataFrame | None = None
    datasets: pd.DataFrame | None = None
    fits: outputs.Fits | None = None
    worth: outputs.DataEfficiency | None = None
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
        """A section of the recipe, {} where there is none."""
        found = self.recipe.get(name)
        return found if isinstance(found, dict) else {}


def read_inputs(url: str) -> Inputs:
    """Read a folder or prefix for what it holds; of a recipe's own folder, its study.

    A file that is there but cannot be read becomes a note, never an error: a report of the rest is worth having.

    Raises:
        UserError: the folder holds neither a study, nor a run, nor a synthetic set.
    """
    names = set(storage.listdir(url))
    if "study" in names and not names & set(SIGNS.values()):  # a recipe's own folder, with its study in it
        url = storage.join(url, "study")
        names = set(storage.listdir(url))
    kind = next((kind for kind, sign in SIGNS.items() if sign in names), None)
    if kind is None:
        there = f"it holds no {', '.join(SIGNS.values())}" if storage.exists(url) else "it is not there"
        raise UserError(f"cannot report on {url}: {there}; give the folder of a study, a run or a synthetic set")
    found = Inputs(url, kind)

    roots = {"study": outputs.STATE, "run": RECORD, "set": SIGNS["set"]}
    owner = storage.read_owner(storage.join(url, root)) if (root := roots[kind]) in names else None
    found.folder_owner = owner or storage.NOBODY
    storage.read_sealed(storage.join(url, SIGNS[kind]), owner)  # without it there is nothing to report

    def read(name: str, parse: Callable[[bytes], T], otherwise: T, owner: str | None = owner) -> T:
        if name not in names:
            return otherwise
        return _parsed(found, name, lambda: parse(storage.read_sealed(storage.join(url, name), owner)), otherwise)

    none: tuple[str, dict[str, Any]] = ("", {})
    found.recipe_text, found.recipe = read("recipe.yaml", _recipe, none)
    if kind == "study":
        found.state = read(outputs.STATE, TypeAdapter(outputs.StudyState).validate_json, None)
        found.table = read(outputs.TABLE, _cells, None)
        found.datasets = read(outputs.DATASETS, _cells, None)
        found.fits = read(outputs.FIT, TypeAdapter(outputs.Fits).validate_json, None)
        found.worth = read(outputs.DATA_EFFICIENCY, TypeAdapter(outputs.DataEfficiency).validate_json, None)
        found.comparisons = read(outputs.COMPARISONS, TypeAdapter(list[outputs.Comparison]).validate_json, [])
        found.shift = read(outputs.SHIFT, TypeAdapter(outputs.StudyShift).validate_json, None)
        of_shift = storage.identity(found.shift.key) if found.shift else None
        found.features = read(outputs.FEATURES, _frame, None, of_shift)
        found.cost = read(outputs.COST, TypeAdapter(outputs.Cost).validate_json, found.cost)
        cells = storage.join(url, outputs.CELLS)
        places = {f"{cells}/{name}/{SIGNS['run']}": name for name in storage.listdir(cells)}
        hashes = {cell.cell: cell.hash for cell in found.state.cells} if found.state else {}
        owners = {place: storage.identity(hashes.get(name, "")) for place, name in places.items()}

        present = set(places)

        def leave_out(place: str, error: storage.DamagedError) -> None:
            present.discard(place)
            found.notes.append(f"{str(error).partition(';')[0]}; {places[place]} is left out.")

        for place, data in storage.read_many(list(places), leave_out, owners).items():  # all at once
            name = places[place]
            present.discard(place)
            found.results[name] = _parsed(found, f"results.json of {name}", partial(_OBJECT.validate_json, data), {})
        done = {cell.cell for cell in found.state.cells if cell.status == "done"} if found.state else set()
        found.notes += [f"{place} is missing." for place in sorted(present) if places[place] in done]
    elif kind == "run":
        found.results = {"": read("results.json", _results, {})}
        found.record = read("run.json", _OBJECT.validate_json, {})
        if METRICS in names:
            lines = partial(storage.read_bytes, storage.join(url, METRICS))
            found.history = _parsed(found, METRICS, lambda: _history(found.record, lines()), [])
    _read_set(found)
    _read_dataset(found)
    _note_missing(found, url)
    return found


def _note_missing(found: Inputs, url: str) -> None:
    """Note files that a finished command left in the folder and that are not there any more."""
    try:
        lost = sorted({*(storage.read_contents(url) or ())} - {*storage.sizes(url)})
    except UserError as error:
        found.notes.append(f"{first_line(error)}.")
        return
    found.notes += [f"{name} is missing, though {CONTENTS} lists it." for name in lost]


def _read_set(found: Inputs) -> None:
    """Open the synthetic set: where the recipe says, the folder itself, or beside it."""
    local = storage.is_local(found.url)
    parent = str(storage.local_path(found.url).resolve().parent) if local else found.url.rstrip("/").rpartition("/")[0]
    root, name = found.section("storage").get("root"), found.recipe.get("name")
    places = [
        found.state.synthetic if found.state else None,
        found.section("training").get("synthetic"),
        found.url,
        f"{found.url.rstrip('/')}/synthetic",
        f"{parent}/synthetic",
        f"{root}/{name}/synthetic" if root and name else None,
    ]
    for place in [str(place) for place in places if place]:
        names = set(storage.listdir(place))
        plan = next((one for one in ("plan.json", "imported.json") if one in names), None)
        if plan is None:
            continue
        try:
            values = _OBJECT.validate_json(storage.read_sealed(storage.join(place, plan)))
            found.plan = {RENAMED.get(key, key): value for key, value in values.items()}
            if any(name.endswith("_stats.json") for name in names):
                found.owner = storage.read_owner(storage.join(place, plan))
                images, stats = ShardSet(place), list(markers(place, owner=found.owner))
                found.shards, found.images = len(stats), sum(one.count for one in stats)
                _note_missing_shards(found, place)
                found.seconds = math.fsum(one.seconds for one in stats)
                found.rejects.update(sum((Counter(one.rejects) for one in stats), Counter()))
                found.synthetic = images
            found.set_files = sorted(names)
        except Exception as error:
            found.notes.append(f"The synthetic set at {place} could not be read and is left out ({_reason(error)}).")
        break


def _note_missing_shards(found: Inputs, place: str) -> None:
    try:
        known = read_set(place)
    except UserError:
        return  # of a plan that is not understood, only what is shown is read
    planned = 0 if known is None else len(known.shards())
    if planned > found.shards:
        lost = f"{planned - found.shards} of its {planned} shards are missing or damaged"
        found.notes.append(f"The synthetic set at {place} is not complete: {lost}.")


def _read_dataset(found: Inputs) -> None:
    """Load the dataset, and name the classes by it, by the study, or by the plan of the set."""
    named = (found.state.dataset if found.state else None) or found.plan.get("dataset")
    settings = found.section("dataset") or ({"name": named} if named else {})
    if settings and not (found.state and found.state.datasets):  # of a suite, each dataset's report has its images
        try:
            found.dataset = load_dataset(DatasetSettings(**settings))
        except Exception as error:
            found.notes.append(f"The dataset's images are not available and are left out ({_reason(error)}).")
    known = found.state.classnames if found.state else found.plan.get("classnames") or []
    found.classnames = [str(name) for name in (found.dataset.classnames if found.dataset else known)]
    found.base = found.state.base if found.state else (len(found.classnames) + 1) // 2


def _parsed(found: Inputs, what: str, parse: Callable[[], T], otherwise: T) -> T:
    """What `parse` returns; where it fails, a note says so, and `otherwise` stands in."""
    try:
        return parse()
    except Exception as error:  # damaged files make parsers raise nearly anything
        found.notes.append(f"{what} could not be read and is left out ({_reason(error)}).")
        return otherwise


def _reason(error: Exception) -> str:
    return first_complaint(error) if isinstance(error, ValidationError) else first_line(error)


def _history(record: Mapping[str, Any], data: bytes) -> list[dict[str, Any]]:
    """The lines of a run's metrics, which a finished run's record has a digest of."""
    if (record.get("logs") or {}).get(METRICS) not in (None, digest_of([data])):
        raise ValueError("its lines are not those that were written")
    return [*map(_OBJECT.validate_json, data.splitlines())]


def _results(data: bytes) -> dict[str, Any]:
    """The results of a run, which has a metric at least."""
    found = _OBJECT.validate_json(data)
    metrics = [found[key] for key in METRIC_HEADINGS if found.get(key) is not None]
    if not metrics or not all(isinstance(one, int | float) for one in metrics):
        raise ValueError("it holds no metrics, or some that are no numbers")
    return found


def _frame(data: bytes) -> pd.DataFrame | None:
    table: pd.DataFrame = storage.read_parquet(data).to_pandas()
    return table


def _cells(data: bytes) -> pd.DataFrame | None:
    """The table of cells, whose scores may be missing, but not what a cell is."""
    table = _frame(data)
    wanted = ("cell", "configuration", "method", "data", "images_per_class")
    if table is not None and (missing := [name for name in wanted if name not in table]):
        raise ValueError(f"it has no column {missing[0]!r}")
    return table


def _recipe(data: bytes) -> tuple[str, dict[str, Any]]:
    """The recipe as it is written, and its values."""
    text = data.decode()
    values = parse_yaml(text, "recipe.yaml")
    if not isinstance(values, dict):
        raise ValueError("it is not a mapping")
    plain = {str(key): value for key, value in values.items()}
    if (clean := shareable(plain)) != plain:  # as earlier versions wrote it
        text, values = yaml.safe_dump(clean, sort_keys=False, allow_unicode=True), clean
    return text, {RENAMED.get(str(key), str(key)): value for key, value in values.items()}
