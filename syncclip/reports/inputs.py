"""What the report is made from: the files that a study, a run or a synthetic set left behind, none of them required."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import pandas as pd
from omegaconf import OmegaConf

from syncclip import storage
from syncclip.core.settings import UserError, with_present_names
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.shards.layout import ShardStats, committed
from syncclip.shards.reader import ShardSet
from syncclip.studies import outputs

Kind = Literal["study", "run", "set"]
T = TypeVar("T")

SIGNS: dict[Kind, str] = {"study": outputs.TABLE, "run": "results.json", "set": "plan.json"}
"""The file by which a folder is known for what it is; the first that is there counts."""


@dataclass
class Sources:
    """All that was found. What is missing is empty, and `notes` says so in a sentence where a reader would miss it."""

    url: str
    kind: Kind
    state: dict[str, Any] = field(default_factory=dict)
    """What the study says of itself: dataset, classes, arms, focus, cells."""
    table: pd.DataFrame | None = None
    """One row a finished cell of the study."""
    fits: dict[str, Any] = field(default_factory=dict)
    worth: dict[str, Any] = field(default_factory=dict)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    shift: dict[str, Any] = field(default_factory=dict)
    features: pd.DataFrame | None = None
    cost: dict[str, Any] = field(default_factory=dict)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Cell name -> its results.json; a single run is the cell ""."""
    record: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    recipe_text: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    stats: dict[int, ShardStats] = field(default_factory=dict)
    synthetic: ShardSet | None = None
    dataset: Dataset | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def classnames(self) -> list[str]:
        """Names of the classes by id, from the dataset or the set's plan; empty where neither is there."""
        if self.dataset is not None:
            return list(self.dataset.classnames)
        named = self.state.get("classnames") or self.plan.get("classnames") or []
        return [str(name) for name in named]

    @property
    def base(self) -> int:
        """Number of base classes; 0 where there are no classes."""
        return int(self.state.get("base") or (len(self.classnames) + 1) // 2)

    def section(self, name: str) -> dict[str, Any]:
        """A section of the recipe, {} where there is none."""
        found = self.recipe.get(name)
        return found if isinstance(found, dict) else {}


def read_sources(url: str) -> Sources:
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
        if not storage.exists(url):
            raise UserError(
                f"cannot report on {url}: it is not there; give the folder of a study, a run or a synthetic set"
            )
        raise UserError(
            f"cannot report on {url}: it holds no {', '.join(SIGNS.values())}; give the folder of a study, a run or a "
            "synthetic set"
        )
    found = Sources(url, kind)
    reader = _Reader(url, names, found.notes)
    found.recipe_text = reader.file("recipe.yaml", lambda data: data.decode(), "")
    found.recipe = reader.file("recipe.yaml", _yaml, {})
    if kind == "study":
        found.state = reader.file(outputs.STATE, _object, {})
        found.table = reader.file(outputs.TABLE, _frame, None)
        found.fits = reader.file(outputs.FIT, _object, {})
        found.worth = reader.file(outputs.WORTH, _object, {})
        found.comparisons = reader.file(outputs.COMPARISONS, _list, [])
        found.shift = reader.file(outputs.SHIFT, _object, {})
        found.features = reader.file(outputs.FEATURES, _frame, None)
        found.cost = reader.file(outputs.COST, _object, {})
        found.results = _cell_results(url, found.notes)
    elif kind == "run":
        found.results = {"": reader.file("results.json", _object, {})}
        found.record = reader.file("run.json", _object, {})
        found.history = reader.file("metrics.jsonl", _lines, [])
    _read_set(found)
    _read_dataset(found)
    return found


class _Reader:
    """Reads files of one folder; remembers which are there, and complains at most once about each."""

    def __init__(self, url: str, names: set[str], notes: list[str]) -> None:
        self.url, self.names, self.notes = url, names, notes

    def file(self, name: str, parse: Callable[[bytes], T], otherwise: T) -> T:
        if name not in self.names:
            return otherwise
        try:
            return parse(storage.read_bytes(storage.join(self.url, name)))
        except Exception as error:  # damaged files make parsers raise nearly anything
            note = f"{name} could not be read and is left out ({_first_line(error)})."
            if note not in self.notes:
                self.notes.append(note)
            return otherwise


def _cell_results(url: str, notes: list[str]) -> dict[str, dict[str, Any]]:
    cells = storage.join(url, outputs.CELLS)
    places = {name: storage.join(cells, name, SIGNS["run"]) for name in storage.listdir(cells)}
    found = {}
    for name, place in places.items():
        data = storage.read_many([place]).get(place)
        if data is None:
            continue
        try:
            found[name] = _object(data)
        except ValueError as error:
            notes.append(f"The results of {name} could not be read and are left out ({_first_line(error)}).")
    return found


def _read_set(found: Sources) -> None:
    """Open the synthetic set: the folder itself, beside it, or where the recipe says."""
    for place in _set_places(found):
        files = [storage.join(place, name) for name in ("plan.json", "imported.json")]
        plan_file = next((file for file in files if storage.exists(file)), None)
        if plan_file is None:
            continue
        try:
            found.plan = _object(storage.read_bytes(plan_file))
            found.stats = committed(place)
            found.synthetic = ShardSet(place) if found.stats else None
        except Exception as error:
            found.notes.append(
                f"The synthetic set at {place} could not be read and is left out ({_first_line(error)})."
            )
        return


def _set_places(found: Sources) -> list[str]:
    places = [found.url, storage.join(found.url, "synthetic"), storage.join(_parent(found.url), "synthetic")]
    for named in (found.section("training").get("synthetic"), found.state.get("synthetic")):
        if named:
            places.insert(0, str(named))
    root, name = found.section("storage").get("root"), found.recipe.get("name")
    if root and name:
        places.append(storage.join(str(root), str(name), "synthetic"))
    return places


def _parent(url: str) -> str:
    if storage.is_local(url):
        return str(storage.local_path(url).resolve().parent)
    return url.rstrip("/").rpartition("/")[0]


def _read_dataset(found: Sources) -> None:
    named = found.state.get("dataset") or found.plan.get("dataset")
    settings = found.section("dataset") or ({"name": named} if named else {})
    if not settings:
        return
    try:
        found.dataset = load_dataset(DatasetSettings(**settings))
    except Exception as error:
        found.notes.append(f"The dataset's images are not at hand and are left out ({_first_line(error)}).")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _frame(data: bytes) -> pd.DataFrame:
    table: pd.DataFrame = storage.read_parquet(data).to_pandas()
    return table


def _yaml(data: bytes) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.create(data.decode()))
    if not isinstance(found, dict):
        raise ValueError("it is not a mapping")
    return with_present_names({str(key): value for key, value in found.items()})


def _object(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, Mapping):
        raise ValueError("it is not an object")
    return with_present_names(found)


def _list(data: bytes) -> list[dict[str, Any]]:
    found = json.loads(data)
    if not isinstance(found, list):
        raise ValueError("it is not a list")
    return [entry for entry in found if isinstance(entry, dict)]


def _lines(data: bytes) -> list[dict[str, Any]]:
    return [_object(line) for line in data.splitlines() if line.strip()]
