"""Verification of all checksums in a synthetic or packed dataset, run, study, export or folder of predictions.

A file is corrupt if its checksum is missing or wrong, and misplaced if the owner in its checksum differs from the
folder's owner. The folder's owner is derived from a root file, such as `plan.json` in a synthetic dataset, `run.json`
in a run, `study.json` in a study, or `packing.json` in a packed dataset. Missing files are detected using
`contents.json`, which lists the files written by a finished command.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain

from pydantic import TypeAdapter, ValidationError

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.manifest import MANIFEST
from syncclip.core.settings import UserError
from syncclip.core.validation_errors import first_error
from syncclip.datasets.packed import PACKED_FILE, PACKING, WHOLE_TRAIN, load_packed, owner_of_split
from syncclip.evaluation.predict import PREDICTIONS, RESULTS
from syncclip.export.formats import is_export_without_manifest
from syncclip.inference.shards import predictions_among, problems_of_predictions
from syncclip.inference.soft_labels import problems_of_teacher, teacher_files_among
from syncclip.interop.dassl import BEST
from syncclip.interop.exports import CARD
from syncclip.runs.classes import CLASSES
from syncclip.runs.evaluate import TEST_DOMAINS, TRANSFER, results_owner
from syncclip.runtime.progress import Progress
from syncclip.shards.index import COLUMNS, INDEX, Index, read_index, shards_by_markers
from syncclip.shards.markers import GROUPED, MARKER, SHARD_FILE, markers
from syncclip.shards.verify import problems
from syncclip.storage.documents import CONTENTS
from syncclip.storage.exports import exported_files, problems_of_export
from syncclip.studies import outputs
from syncclip.studies.cells import TIMING
from syncclip.studies.status import PROGRESS
from syncclip.synthesis.filters.assets import FOLDER as FILTERS
from syncclip.synthesis.filters.assets import checksum_of
from syncclip.synthesis.plan import PLAN_NAME, read_plan
from syncclip.synthesis.references import FOLDER as GUIDES
from syncclip.synthesis.rejects import REJECTS, owner_of_shard
from syncclip.synthesis.status import PART_STATUS, STATUS_NAME
from syncclip.synthesis.summary import SUMMARY_NAME
from syncclip.synthetic_sets.imported import IMPORTED, SET_RECIPE, ImportedSet, read_set, require_content
from syncclip.synthetic_sets.quality import STATS_NAME
from syncclip.synthetic_sets.repair import absent
from syncclip.training.checkpoints import Marker
from syncclip.training.run_folder import CHECKPOINTS, EVENTS, METRICS, PROMPTS, RECIPE, RECORD, RunFolder
from syncclip.training.status import STATUS
from syncclip.workers.parallel import ordered_map

_OF_SET = {PLAN_NAME, IMPORTED, SET_RECIPE, INDEX, COLUMNS}
"""Files that accompany a dataset's shards; tar files without any such file or marker come from other tools."""
_STEP = re.compile(r"(step-\d+)\.(json|safetensors)")
_PROTOCOL = re.compile(r"[a-z0-9-]+\.(parquet|md|html)")
ROOTS = (PLAN_NAME, IMPORTED, RECORD, outputs.STATE, outputs.LEVELS, PACKING, outputs.TUNED)
"""Files that identify the content of a folder."""
WITH_CHECKSUM = frozenset(
    {*ROOTS, CONTENTS, SET_RECIPE, STATUS_NAME, SUMMARY_NAME, STATS_NAME, INDEX, RECIPE, PROMPTS, CLASSES, RESULTS}
    | {PREDICTIONS, STATUS, TIMING, CARD, PACKED_FILE, WHOLE_TRAIN, PROGRESS, "report.html", *outputs.ALWAYS}
    | {outputs.DATASETS, outputs.PREDICTIONS, outputs.SHIFT, outputs.FEATURES}
    | {outputs.NAME_KNOWLEDGE, outputs.MAP, outputs.MAP_CELLS}
)
"""Files that syncclip writes with a checksum."""


@dataclass
class Verification:
    """Result of verifying a folder.

    Attributes:
        files: number of files read.
        foreign: files that syncclip does not write and cannot verify.
        problems: one sentence for each corrupt, replaced or missing file.
        shards: shards to regenerate in the folder's synthetic dataset.
        mendable: number of problems that can be fixed by regenerating these shards.
    """

    files: int = 0
    foreign: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    shards: list[int] = field(default_factory=list)
    mendable: int = 0


@dataclass(frozen=True)
class _Folder:
    """A folder to verify.

    Attributes:
        names: names of the folder's files.
        owners: owner according to the content of each intact root file, by file name (see `storage.checksums`).
        parent: parent folder, if it is also verified.
    """

    url: str
    names: Sequence[str]
    owners: dict[str, str]
    parent: _Folder | None = None

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.url.rstrip("/").rpartition("/")[2]

    def file(self, name: str) -> str:
        """Return the path or URL of a file."""
        return storage.join(self.url, name)

    def expected(self, name: str) -> set[str]:
        """Return the allowed owners of a file in this folder; an empty set allows any owner."""
        set_owner = self.owners.get(PLAN_NAME)
        if (match := REJECTS.fullmatch(name)) and set_owner:
            return {owner_of_shard(set_owner, int(match[1]))}
        if name == outputs.FEATURES and outputs.SHIFT in self.names:
            return {storage.identity(str(outputs.read_json(self.file(outputs.SHIFT)).get("key")))}
        if self.owners:
            return {*self.owners.values()}
        if self.parent is not None and (split := self.parent.owners.get(PACKING)):
            return {owner_of_split(split, self.name)}
        if self.parent is not None and self.parent.name == GUIDES:
            return {storage.identity(self.name)}
        if self.parent is not None and self.name == CHECKPOINTS and (run := self.parent.owners.get(RECORD)):
            return {run}
        kind = None if self.parent is None else self.parent.name
        run_folder = self.parent.parent if self.parent is not None and kind in (TRANSFER, TEST_DOMAINS) else None
        if run_folder is not None and RECORD in run_folder.owners:
            record = RunFolder(run_folder.url, "", "").record()
            assert record is not None
            transfer = self.name if kind == TRANSFER else None
            return {results_owner(RunFolder(run_folder.url, record.name, record.recipe_hash), transfer)}
        return set()


def verify(url: str, report: Callable[[str], None], actors: int = 1) -> Verification:
    """Verify the checksum and owner of every file in a folder and its subfolders.

    Args:
        report: callback for each problem, called as soon as the problem is detected.
        actors: number of Ray actors that verify the shards; 1: this process.
    """
    result, folders = Verification(), list(_folders(url))
    if not any(folder.names for folder in folders):
        fix = "no files; specify the folder of a dataset, run, study, export or predictions"
        raise storage.wrong_folder(url, "a folder of results", fix)
    with Progress(sum(len(folder.names) for folder in folders), "files", "verify") as progress:
        exported: set[str] = set()
        for folder in folders:
            exported |= exported_files(folder.url) if MANIFEST in folder.names else set()
            names = [name for name in folder.names if folder.file(name) not in exported]
            result.files += len(folder.names) - len(names)
            progress.update(len(folder.names) - len(names))
            checked = _problems(replace(folder, names=names), result, progress, actors)
            sentences = chain(_problems_of_export(folder), checked)
            for sentence in sentences:
                result.problems.append(sentence)
                report(sentence)
    return result


def _folders(url: str, parent: _Folder | None = None) -> Iterator[_Folder]:
    """Yield a folder and all its subfolders."""
    sizes = storage.sizes(url)
    folder = _Folder(url, list(sizes), _owners(url, list(sizes)), parent)
    yield folder
    for name in storage.listdir(url):
        if name not in sizes:
            yield from _folders(storage.join(url, name), folder)


def _owners(url: str, names: Sequence[str]) -> dict[str, str]:
    """Return a folder's owner according to each intact root file; corrupt root files are reported separately."""
    owners = {}
    for root in ROOTS:
        if root in names:
            try:
                owners[root] = _owner(url, root)
            except (UserError, ValidationError):
                continue
    return owners


def _owner(url: str, root: str) -> str:
    file = storage.join(url, root)
    if root == PLAN_NAME and (plan := read_plan(url)) is not None:
        return plan.owner
    if root == IMPORTED:
        imported = storage.read_document(file, ImportedSet, "import the dataset again")
        assert imported is not None
        return imported.owner
    if root == RECORD and (record := RunFolder(url, "", "").record()) is not None:
        return storage.identity(record.recipe_hash)
    if root == outputs.STATE:
        return TypeAdapter(outputs.StudyState).validate_json(storage.read_verified(file)).owner
    return storage.read_owner(file)


def _problems_of_export(folder: _Folder) -> Iterator[str]:
    of_run = folder.parent is not None and RECORD in folder.parent.names
    if MANIFEST in folder.names:
        yield from problems_of_export(folder.url)
    elif is_export_without_manifest(list(folder.names)) or (of_run and BEST in folder.names):
        yield f"{folder.file(MANIFEST)} is missing from this export; export again into a new folder"


def _problems(folder: _Folder, result: Verification, progress: Progress, actors: int) -> Iterator[str]:
    """Yield the problems of a folder, excluding its subfolders."""
    derived = predictions_among(folder.names) | teacher_files_among(folder.names)
    yield from problems_of_predictions(folder.url, folder.names)
    yield from problems_of_teacher(folder.url, folder.names)
    names = [name for name in folder.names if name not in derived]
    shards = {name: int(match[1]) for name in names if (match := SHARD_FILE.fullmatch(name))}
    if _OF_SET.isdisjoint(names) and not any(name.endswith("_stats.json") for name in shards):
        shards = {}  # tar files of other tools
    broken: set[int] = set()
    if shards or {PLAN_NAME, IMPORTED} & {*folder.names}:
        yield from _shard_problems(folder, bool(shards), broken, result, progress, actors)
    checked = {name for name, shard in shards.items() if shard in broken or not name.endswith(".json")} | derived
    result.files += len(checked)
    yield from _missing(folder)
    for name in sorted({*folder.names} - checked):
        try:
            if not _check(folder, name):
                result.foreign.append(folder.file(name))
        except storage.MissingError:
            continue  # removed since the listing, for example by a training run in progress
        except storage.UnreachableError:
            raise
        except UserError as error:
            yield str(error)
        result.files += 1
        progress.update(1)


def _shard_problems(
    folder: _Folder, any_shards: bool, broken: set[int], result: Verification, progress: Progress, actors: int
) -> Iterator[str]:
    """Yield the problems of a folder's shards, and add the shards to regenerate to `broken`."""
    url, top = folder.url, folder.parent is None
    owner = next(iter(folder.expected(INDEX)), None)
    if any_shards:
        for problem in problems(url, lambda: progress.update(2), owner, partial(ordered_map, actors=actors)):
            broken.add(problem.shard)
            result.mendable += top
            yield f"{url}: {problem.sentence}"
    index = read_index(url, owner=owner) if any_shards and not broken else None
    if index is not None:
        marked = shards_by_markers(url, owner).values()
        if [shard[:4] for shard in index.shards] != [shard[:4] for shard in marked]:
            yield f"{url}: {INDEX} does not match the shards; remove {INDEX}, which can be rebuilt"
    missing = []
    try:
        missing = absent(url, broken)
        if not broken and not missing and (content := read_set(url)) is not None:
            require_content(content, url)
    except UserError as error:
        if {PLAN_NAME, IMPORTED} & folder.owners.keys():  # otherwise reported by the check of that file
            yield str(error)
    broken.update(problem.shard for problem in missing)
    result.mendable += top * len(missing)
    yield from (f"{url}: {problem.sentence}" for problem in missing)
    if top:
        result.shards = sorted(broken)


def _check(folder: _Folder, name: str) -> bool:
    """Verify a file's checksum; return False for a foreign file, and raise a `UserError` for a corrupt file."""
    file = folder.file(name)
    if folder.name == CHECKPOINTS and (match := _STEP.fullmatch(name)):
        marker = storage.read_document(folder.file(f"{match[1]}.json"), Marker, "remove it")
        if name.endswith(".json"):
            _require_owner(folder, name)
        return marker is not None and (name.endswith(".json") or _same(file, marker.sha256))
    if folder.name == FILTERS and name.endswith(".safetensors"):
        _require(file, checksum_of(storage.read_bytes(file)) == name.removesuffix(".safetensors"))
        return True
    if name == COLUMNS and INDEX in folder.names:
        index = storage.read_document(folder.file(INDEX), Index, "remove it")
        return index is not None and _same(file, index.sha256)
    if name == METRICS or EVENTS in name:
        return _log(folder, name)
    if _is_ours(folder, name):
        _require_owner(folder, name)
        return True
    if name.endswith(".json"):  # captions, or a foreign file
        parse_json(storage.read_bytes(file), file, object)
    return storage.has_checksum(file)


def _is_ours(folder: _Folder, name: str) -> bool:
    """Return whether syncclip writes a file with this name to this folder, together with a checksum."""
    if name == CARD:
        return RECORD in folder.names
    if _PROTOCOL.fullmatch(name) and _protocol(folder) == name.rpartition(".")[0]:
        return True
    patterns = REJECTS, MARKER, GROUPED, PART_STATUS
    ours = name in WITH_CHECKSUM or EVENTS in name or name in (METRICS, COLUMNS)
    return ours or any(pattern.fullmatch(name) for pattern in patterns)


def _require_owner(folder: _Folder, name: str) -> None:
    """Verify the checksum and owner of a file."""
    expected, file = folder.expected(name), folder.file(name)
    if (owner := storage.read_owner(file)) not in expected and expected:
        storage.read_verified(file, next(iter(expected)))
    if name in folder.owners and owner != folder.owners[name]:
        storage.read_verified(file, folder.owners[name])
    if name in ROOTS and name not in folder.owners:
        try:
            _owner(folder.url, name)
        except ValidationError as error:
            reason = first_error(error)
            raise UserError(
                f"{file} is not supported by this version of syncclip ({reason}); use the version that wrote it"
            ) from error


def _protocol(folder: _Folder) -> str | None:
    """Return the name of the protocol whose tables and page are in a folder, or None if there is no such protocol."""
    stems = {name.rpartition(".")[0] for name in folder.names if name.endswith(".md")}
    return next((stem for stem in stems if {f"{stem}.parquet", f"{stem}.html"} & {*folder.names}), None)


def _same(file: str, sha256: str) -> bool:
    _require(file, hashlib.sha256(storage.read_bytes(file)).hexdigest() == sha256)
    return True


def _require(file: str, matches: bool) -> None:
    if not matches:
        raise storage.DamagedError(f"{file} is corrupt: its checksum does not match")


def _log(folder: _Folder, name: str) -> bool:
    """Check metrics or events against the checksum in a finished run's record; skip unfinished runs."""
    record = RunFolder(folder.url, "", "").record()
    if record is None or record.status != "finished" or not record.logs:
        return True
    return name in record.logs and _same(folder.file(name), record.logs[name])


def _missing(folder: _Folder) -> Iterator[str]:
    """Yield a message for each missing file or folder."""
    try:
        for name, reason in _required(folder):
            if name not in folder.names:
                yield f"{folder.file(name)} is missing, although {reason}"
        if PACKED_FILE in folder.names:
            try:
                load_packed(folder.file(PACKED_FILE)).split("train")
            except (storage.DamagedError, KeyError):
                pass  # reported by its own check; or there is no training split
            except UserError as error:
                yield str(error)
        if outputs.STATE in folder.owners:
            yield from _missing_cells(folder)
        if {outputs.LEVELS, outputs.MAP} <= {*folder.names}:
            yield from _missing_levels(folder)
    except (UserError, json.JSONDecodeError, KeyError, TypeError):
        return  # a corrupt record is reported by its own check


def _required(folder: _Folder) -> Iterator[tuple[str, str]]:
    """Yield (file, reason) for each file that is required by other files in the folder."""
    names = folder.names
    try:
        contents = storage.read_contents(folder.url)
    except UserError:
        contents = ()  # reported by its own check
    yield from ((name, f"{CONTENTS} lists this file") for name in contents or () if _is_ours(folder, name))
    if _is_finished(folder):
        yield CONTENTS, "the command that writes this file has finished"
    if RECORD in folder.owners and (record := RunFolder(folder.url, "", "").record()) is not None:
        yield RECIPE, "this is a run"
        yield from ((name, f"{RECORD} contains its checksum") for name in record.logs)
        if record.status == "finished":
            yield PROMPTS, "the run has finished"
    elif PROMPTS in names:
        yield RECORD, "this is a run"
    for name in names if folder.name == CHECKPOINTS else ():
        if match := _STEP.fullmatch(name):
            yield f"{match[1]}.json", "every checkpoint must have a marker"
            yield f"{match[1]}.safetensors", "the checkpoint's marker exists"
    shared = CARD in names and METRICS not in names  # a shared copy has no predictions
    of_run = PREDICTIONS in names and outputs.STATE not in names  # studies also have a file of this name
    if of_run or (RESULTS in names and not shared):
        yield PREDICTIONS, "the run has been evaluated"
        yield RESULTS, "the run has been evaluated"
    if INDEX in names or COLUMNS in names or (folder.parent is not None and PACKED_FILE in folder.parent.owners):
        yield INDEX, "the dataset's index requires this file"
        yield COLUMNS, f"{INDEX} contains its checksum"
    if SET_RECIPE in names and IMPORTED not in names:
        yield PLAN_NAME, "this is a generated dataset"
    if PACKED_FILE in names and CONTENTS in names:
        yield PACKING, "this is a packed dataset"
    if any(SHARD_FILE.fullmatch(name) for name in names) and _belongs_to_a_plan(folder):
        yield PLAN_NAME, "the markers belong to a plan"
    if outputs.TABLE in names:
        yield outputs.STATE, "this is a study"
    if outputs.MAP in names:
        yield outputs.LEVELS, "this is a study with several pretrained tags"


def _belongs_to_a_plan(folder: _Folder) -> bool:
    """Return whether the shards were generated, rather than imported or packed."""
    parent = folder.url.rstrip("/").rpartition("/")[0]
    if IMPORTED in folder.names or folder.parent is not None or storage.exists(storage.join(parent, PACKED_FILE)):
        return False
    stats = next(markers(folder.url, lambda *_: None), None)
    return stats is not None and stats.owner != storage.NOBODY


def _is_finished(folder: _Folder) -> bool:
    """Return whether the command that writes the folder's contents file has finished."""
    if PACKED_FILE in folder.names and PACKING in folder.names:
        return True
    if RECORD in folder.owners and (record := RunFolder(folder.url, "", "").record()) is not None:
        return record.status == "finished" and (RESULTS in folder.names or record.origin is not None)
    if outputs.STATE in folder.owners:
        state = outputs.read_json(folder.file(outputs.STATE))
        return all(cell["status"] in ("done", "failed") for cell in state["cells"])
    return not {outputs.TUNED, outputs.MAP, SUMMARY_NAME}.isdisjoint(folder.names)


def _missing_levels(folder: _Folder) -> Iterator[str]:
    """Yield a message for each missing level of a study with several pretrained tags."""
    names = {*storage.listdir(folder.url)}
    for tag in sorted({*outputs.read_json(folder.file(outputs.MAP))["levels"]} - names):
        yield f"{folder.file(tag)} is missing, although it belongs to this study"


def _missing_cells(folder: _Folder) -> Iterator[str]:
    """Yield a message for each missing or replaced run or dataset of a study."""
    state = outputs.read_json(folder.file(outputs.STATE))
    cells, datasets = folder.file(outputs.CELLS), state.get("datasets", [])
    names = {*storage.listdir(folder.url)}
    for name in sorted({*datasets} - names) if datasets and outputs.CELLS not in names else ():
        if names & {*datasets}:
            yield f"{folder.file(name)} is missing, although it belongs to this study"
    existing = {*storage.listdir(cells)} if outputs.CELLS in names else set[str]()
    for cell in state["cells"] if existing else ():
        url = storage.join(cells, cell["cell"])
        if cell["status"] != "done":
            continue
        if cell["cell"] not in existing or RESULTS not in storage.sizes(url):
            yield f"{url} is missing or has no {RESULTS}, although the study records it as done"
            continue
        record = RunFolder(url, "", "").record()
        if record is not None and record.recipe_hash != cell["hash"]:
            yield f"{url} differs from the run in {outputs.STATE}; restore the original"
