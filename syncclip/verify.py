"""The check of a folder: every file of a set, run, study, packed dataset, export or of predictions by its checksum.

A file that syncclip writes is damaged where its checksum is missing or wrong, and exchanged where its seal names
another owner than the files beside it, whose owner follows from a root: `plan.json` or `imported.json` of a set,
`run.json` of a run, `study.json` of a study, `packing.json` of a packed dataset. `contents.json` lists what a finished
command left, so that a removed file is noticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from pydantic import TypeAdapter, ValidationError

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.manifest import MANIFEST
from syncclip.core.settings import UserError, first_complaint
from syncclip.datasets.packed import PACKED_FILE, PACKING, WHOLE_TRAIN, load_packed, owner_of_split
from syncclip.evaluation.predict import PREDICTIONS, RESULTS
from syncclip.export.formats import is_export_without_manifest
from syncclip.inference.shards import predictions_among, problems_of_predictions
from syncclip.inference.soft_labels import problems_of_teacher, teacher_files_among
from syncclip.interop.dassl import BEST
from syncclip.interop.exports import CARD
from syncclip.runs.classes import CLASSES
from syncclip.runs.evaluate import TRANSFER, results_owner
from syncclip.runtime.progress import Progress
from syncclip.shards.index import COLUMNS, INDEX, Index, read_index
from syncclip.shards.markers import markers
from syncclip.shards.samples import shards_by_markers
from syncclip.shards.verify import problems
from syncclip.storage.contents import CONTENTS
from syncclip.storage.exports import exported_files, problems_of_export
from syncclip.studies import outputs
from syncclip.studies.cells import TIMING
from syncclip.studies.status import PROGRESS
from syncclip.synthesis.filters.assets import FOLDER as FILTERS
from syncclip.synthesis.filters.assets import digest_of
from syncclip.synthesis.plan import PLAN_NAME, read_plan
from syncclip.synthesis.references import FOLDER as GUIDES
from syncclip.synthesis.rejects import REJECTS, owner_of_shard
from syncclip.synthesis.status import STATUS_NAME
from syncclip.synthesis.summary import SUMMARY_NAME
from syncclip.synthetic_sets.imported import IMPORTED, SET_RECIPE, ImportedSet, read_set, require_content
from syncclip.synthetic_sets.quality import STATS_NAME
from syncclip.synthetic_sets.repair import absent
from syncclip.training.checkpoints import Marker
from syncclip.training.run_folder import CHECKPOINTS, EVENTS, METRICS, PROMPTS, RECIPE, RECORD, RunFolder
from syncclip.training.status import STATUS

_SHARD = re.compile(r"([0-9]{5,})(\.tar|\.parquet|_stats\.json)")
_OF_SET = {PLAN_NAME, IMPORTED, SET_RECIPE, INDEX, COLUMNS}
"""Files of a set beside its shards; without one of them and without a marker, a tar is not ours."""
_STEP = re.compile(r"(step-\d+)\.(json|safetensors)")
_MARKER = re.compile(r"[0-9]{5,}_stats\.json")
_PROTOCOL = re.compile(r"[a-z0-9-]+\.(parquet|md|html)")
ROOTS = (PLAN_NAME, IMPORTED, RECORD, outputs.STATE, PACKING, outputs.CHOICES)
"""Files that say what a folder holds."""
SEALED = frozenset(
    {*ROOTS, CONTENTS, SET_RECIPE, STATUS_NAME, SUMMARY_NAME, STATS_NAME, INDEX, RECIPE, PROMPTS, CLASSES, RESULTS}
    | {PREDICTIONS, STATUS, TIMING, CARD, PACKED_FILE, WHOLE_TRAIN, PROGRESS, "report.html", *outputs.ALWAYS}
    | {outputs.DATASETS, outputs.ANSWERS, outputs.SHIFT, outputs.FEATURES}
)
"""Files that carry a checksum."""


@dataclass
class Verification:
    """The result of checking a folder.

    Attributes:
        files: how many were read.
        foreign: those that syncclip does not write, and so cannot check.
        problems: a sentence for each damaged, exchanged or missing file.
        shards: of the folder's own set those to be generated again; `mendable` of the problems are theirs.
    """

    files: int = 0
    foreign: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    shards: list[int] = field(default_factory=list)
    mendable: int = 0


@dataclass(frozen=True)
class _Folder:
    """A folder to be checked.

    Attributes:
        names: of its files.
        owners: root -> identity that follows from its content, see `storage.seals`; without those that are damaged.
        parent: the folder that it lies in, as far as that is checked, too.
    """

    url: str
    names: Sequence[str]
    owners: dict[str, str]
    parent: _Folder | None = None

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.url.rstrip("/").rpartition("/")[2]

    def place(self, name: str) -> str:
        """Path or URL of a file."""
        return storage.join(self.url, name)

    def expected(self, name: str) -> set[str]:
        """The identities that a sealed file here may have; none: any."""
        set_owner = self.owners.get(PLAN_NAME)
        if (match := REJECTS.fullmatch(name)) and set_owner:
            return {owner_of_shard(set_owner, int(match[1]))}
        if name == outputs.FEATURES and outputs.SHIFT in self.names:
            return {storage.identity(str(outputs.read_json(self.place(outputs.SHIFT)).get("key")))}
        if self.owners:
            return {*self.owners.values()}
        if self.parent is not None and (split := self.parent.owners.get(PACKING)):
            return {owner_of_split(split, self.name)}
        if self.parent is not None and self.parent.name == GUIDES:
            return {storage.identity(self.name)}
        if self.parent is not None and self.name == CHECKPOINTS and (run := self.parent.owners.get(RECORD)):
            return {run}
        above = None if self.parent is None else self.parent.parent
        if above is not None and self.parent is not None and self.parent.name == TRANSFER and RECORD in above.owners:
            record = RunFolder(above.url, "", "").record()
            assert record is not None
            return {results_owner(RunFolder(above.url, record.name, record.recipe_hash), self.name)}
        return set()


def verify(url: str, tell: Callable[[str], None]) -> Verification:
    """Read every file in a folder and those below, and compare it with its checksum and its owner.

    Args:
        tell: called with each problem when it is found.

    Raises:
        UserError: there is no such folder, or it can't be read.
    """
    result, folders = Verification(), list(_folders(url))
    if not any(folder.names for folder in folders):
        raise UserError(
            f"{url}: there is no file; give the folder of a set, a run, a study, a packed dataset, an export or of "
            "predictions"
        )
    with Progress(sum(len(folder.names) for folder in folders), "files", "verify") as progress:
        exported: set[str] = set()
        for folder in folders:
            exported |= exported_files(folder.url) if MANIFEST in folder.names else set()
            own = [name for name in folder.names if folder.place(name) not in exported]
            result.files += len(folder.names) - len(own)
            progress.update(len(folder.names) - len(own))
            found = chain(_problems_of_export(folder), _problems(replace(folder, names=own), result, progress))
            for sentence in found:
                result.problems.append(sentence)
                tell(sentence)
    return result


def _folders(url: str, parent: _Folder | None = None) -> Iterator[_Folder]:
    """A folder and those below."""
    sizes = storage.sizes(url)
    folder = _Folder(url, list(sizes), _owners(url, list(sizes)), parent)
    yield folder
    for name in storage.listdir(url):
        if name not in sizes:
            yield from _folders(storage.join(url, name), folder)


def _owners(url: str, names: Sequence[str]) -> dict[str, str]:
    """Root -> identity of what a folder holds, by its content; damaged roots are left out, their own check reports."""
    owners = {}
    for root in ROOTS:
        if root in names:
            try:
                owners[root] = _owner(url, root)
            except (UserError, ValidationError):
                continue
    return owners


def _owner(url: str, root: str) -> str:
    place = storage.join(url, root)
    if root == PLAN_NAME and (plan := read_plan(url)) is not None:
        return plan.owner
    if root == IMPORTED:
        imported = storage.read_document(place, ImportedSet, "import the set again")
        assert imported is not None
        return imported.owner
    if root == RECORD and (record := RunFolder(url, "", "").record()) is not None:
        return storage.identity(record.recipe_hash)
    if root == outputs.STATE:
        return TypeAdapter(outputs.StudyState).validate_json(storage.read_sealed(place)).owner
    return storage.read_owner(place)


def _problems_of_export(folder: _Folder) -> Iterator[str]:
    """The problems of an export in a folder, one sentence each."""
    of_run = folder.parent is not None and RECORD in folder.parent.names
    if MANIFEST in folder.names:
        yield from problems_of_export(folder.url)
    elif is_export_without_manifest(list(folder.names)) or (of_run and BEST in folder.names):
        yield f"{folder.place(MANIFEST)} is missing, though this is an export; export again into a new folder"


def _problems(folder: _Folder, result: Verification, progress: Progress) -> Iterator[str]:
    """The problems of one folder, one sentence each."""
    derived = predictions_among(folder.names) | teacher_files_among(folder.names)
    yield from problems_of_predictions(folder.url, folder.names)
    yield from problems_of_teacher(folder.url, folder.names)
    own = [name for name in folder.names if name not in derived]
    shards = {name: int(match[1]) for name in own if (match := _SHARD.fullmatch(name))}
    if _OF_SET.isdisjoint(own) and not any(name.endswith("_stats.json") for name in shards):
        shards = {}  # such as tars that others wrote
    broken: set[int] = set()
    if shards or {PLAN_NAME, IMPORTED} & {*folder.names}:
        yield from _shard_problems(folder, bool(shards), broken, result, progress)
    checked = {name for name, shard in shards.items() if shard in broken or not name.endswith(".json")} | derived
    result.files += len(checked)
    yield from _missing(folder)
    for name in sorted({*folder.names} - checked):
        try:
            if not _check(folder, name):
                result.foreign.append(folder.place(name))
        except storage.MissingError:
            continue  # removed since it was listed, as by a run that goes on
        except storage.UnreachableError:
            raise
        except UserError as error:
            yield str(error)
        result.files += 1
        progress.update(1)


def _shard_problems(
    folder: _Folder, any_shards: bool, broken: set[int], result: Verification, progress: Progress
) -> Iterator[str]:
    """The problems of a folder's shards; `broken` takes the numbers of those to be generated again."""
    url, first = folder.url, folder.parent is None
    owner = next(iter(folder.expected(INDEX)), None)
    if any_shards:
        for problem in problems(url, lambda: progress.update(2), owner):
            broken.add(problem.shard)
            result.mendable += first
            yield f"{url}: {problem.sentence}"
    index = read_index(url, owner=owner) if any_shards and not broken else None
    if index is not None:
        marked = shards_by_markers(url, owner).values()
        if [shard[:4] for shard in index.shards] != [shard[:4] for shard in marked]:
            yield f"{url}: {INDEX} is not that of these shards, some were exchanged; remove it, it is written again"
    missing = []
    try:
        missing = absent(url, broken)
        if not broken and not missing and (known := read_set(url)) is not None:
            require_content(known, url)
    except UserError as error:
        if {PLAN_NAME, IMPORTED} & folder.owners.keys():  # else the check of that file reports it
            yield str(error)
    broken.update(problem.shard for problem in missing)
    result.mendable += first * len(missing)
    yield from (f"{url}: {problem.sentence}" for problem in missing)
    if first:
        result.shards = sorted(broken)


def _check(folder: _Folder, name: str) -> bool:
    """Compare a file with its checksum; False for one that syncclip does not write.

    Raises:
        UserError: it is damaged or exchanged.
    """
    place = folder.place(name)
    if folder.name == CHECKPOINTS and (match := _STEP.fullmatch(name)):
        marker = storage.read_document(folder.place(f"{match[1]}.json"), Marker, "remove it")
        if name.endswith(".json"):
            _require_owner(folder, name)
        return marker is not None and (name.endswith(".json") or _same(place, marker.sha256))
    if folder.name == FILTERS and name.endswith(".safetensors"):
        _require(place, digest_of(storage.read_bytes(place)) == name.removesuffix(".safetensors"))
        return True
    if name == COLUMNS and INDEX in folder.names:
        index = storage.read_document(folder.place(INDEX), Index, "remove it")
        return index is not None and _same(place, index.sha256)
    if name == METRICS or EVENTS in name:
        return _log(folder, name)
    if _is_ours(folder, name):
        _require_owner(folder, name)
        return True
    if name.endswith(".json"):  # captions, or someone else's
        parse_json(storage.read_bytes(place), place, object)
    return storage.has_seal(place)


def _is_ours(folder: _Folder, name: str) -> bool:
    """Whether syncclip writes a file of this name there, with a checksum."""
    if name == CARD:
        return RECORD in folder.names
    if _PROTOCOL.fullmatch(name) and _protocol(folder) == name.rpartition(".")[0]:
        return True
    pattern = REJECTS.fullmatch(name) or _MARKER.fullmatch(name)
    return name in SEALED or EVENTS in name or name in (METRICS, COLUMNS) or pattern is not None


def _require_owner(folder: _Folder, name: str) -> None:
    """Read a sealed file, which must belong to what its folder holds."""
    expected, place = folder.expected(name), folder.place(name)
    if (owner := storage.read_owner(place)) not in expected and expected:
        storage.read_sealed(place, next(iter(expected)))
    if name in folder.owners and owner != folder.owners[name]:
        storage.read_sealed(place, folder.owners[name])
    if name in ROOTS and name not in folder.owners:
        try:
            _owner(folder.url, name)
        except ValidationError as error:
            raise UserError(f"{place} can't be read by this version of syncclip ({first_complaint(error)})") from error


def _protocol(folder: _Folder) -> str | None:
    """The protocol whose tables and page a folder has."""
    stems = {name.rpartition(".")[0] for name in folder.names if name.endswith(".md")}
    return next((stem for stem in stems if {f"{stem}.parquet", f"{stem}.html"} & {*folder.names}), None)


def _same(place: str, sha256: str) -> bool:
    _require(place, hashlib.sha256(storage.read_bytes(place)).hexdigest() == sha256)
    return True


def _require(place: str, same: bool) -> None:
    if not same:
        raise storage.DamagedError(f"{place} is not as it was written, it was damaged, edited or exchanged")


def _log(folder: _Folder, name: str) -> bool:
    """Compare metrics or events with the checksum in the record of a finished run; those of others still grow."""
    record = RunFolder(folder.url, "", "").record()
    if record is None or record.status != "finished" or not record.logs:
        return True
    return name in record.logs and _same(folder.place(name), record.logs[name])


def _missing(folder: _Folder) -> Iterator[str]:
    """A sentence for each file or folder that another one requires."""
    try:
        for name, why in _expected(folder):
            if name not in folder.names:
                yield f"{folder.place(name)} is missing, though {why}"
        if PACKED_FILE in folder.names:
            try:
                load_packed(folder.place(PACKED_FILE)).split("train")
            except (storage.DamagedError, KeyError):
                pass  # its own check reports it; no training split was packed
            except UserError as error:
                yield str(error)
        if outputs.STATE in folder.owners:
            yield from _missing_cells(folder)
    except (UserError, json.JSONDecodeError, KeyError, TypeError):
        return  # of a damaged record its own check reports


def _expected(folder: _Folder) -> Iterator[tuple[str, str]]:
    """The files that must lie in a folder beside others, and why."""
    names = folder.names
    try:
        contents = storage.read_contents(folder.url)
    except UserError:
        contents = ()  # its own check reports it
    yield from ((name, f"{CONTENTS} lists it") for name in contents or () if _is_ours(folder, name))
    if _is_finished(folder):
        yield CONTENTS, "what is there is finished"
    if RECORD in folder.owners and (record := RunFolder(folder.url, "", "").record()) is not None:
        yield RECIPE, "a run has one"
        yield from ((name, f"{RECORD} holds its checksum") for name in record.logs)
        if record.status == "finished":
            yield PROMPTS, "the run is finished"
    elif PROMPTS in names:
        yield RECORD, "a run has one"
    for name in names if folder.name == CHECKPOINTS else ():
        if match := _STEP.fullmatch(name):
            yield f"{match[1]}.json", "a checkpoint has a marker"
            yield f"{match[1]}.safetensors", "its marker is there"
    shared = CARD in names and METRICS not in names  # a copy for others, which has no predictions
    if PREDICTIONS in names or (RESULTS in names and not shared):
        yield PREDICTIONS, "a tested run has them"
        yield RESULTS, "a tested run has them"
    if INDEX in names or COLUMNS in names or (folder.parent is not None and PACKED_FILE in folder.parent.owners):
        yield INDEX, "it belongs to the set's index"
        yield COLUMNS, f"{INDEX} holds its checksum"
    if SET_RECIPE in names and IMPORTED not in names:
        yield PLAN_NAME, "a synthesis has one"
    if PACKED_FILE in names and CONTENTS in names:
        yield PACKING, "a dataset was packed there"
    if any(_SHARD.fullmatch(name) for name in names) and _belongs_to_a_plan(folder):
        yield PLAN_NAME, "the markers name a plan"
    if outputs.TABLE in names:
        yield outputs.STATE, "a study has one"


def _belongs_to_a_plan(folder: _Folder) -> bool:
    """Whether shards were generated or imported, and are not a split of a packed dataset."""
    above = folder.url.rstrip("/").rpartition("/")[0]
    if IMPORTED in folder.names or folder.parent is not None or storage.exists(storage.join(above, PACKED_FILE)):
        return False
    stats = next(markers(folder.url, lambda *_: None), None)
    return stats is not None and stats.owner != storage.NOBODY


def _is_finished(folder: _Folder) -> bool:
    """Whether a command that records the folder's contents has ended there."""
    if PACKED_FILE in folder.names and PACKING in folder.names:
        return True
    if RECORD in folder.owners and (record := RunFolder(folder.url, "", "").record()) is not None:
        return record.status == "finished" and (RESULTS in folder.names or record.origin is not None)
    if outputs.STATE in folder.owners:
        state = outputs.read_json(folder.place(outputs.STATE))
        return all(cell["status"] in ("done", "failed") for cell in state["cells"])
    return outputs.CHOICES in folder.names or SUMMARY_NAME in folder.names


def _missing_cells(folder: _Folder) -> Iterator[str]:
    """A sentence for each run or dataset of a study that is missing, or that is another one's."""
    state = outputs.read_json(folder.place(outputs.STATE))
    cells, datasets = folder.place(outputs.CELLS), state.get("datasets", [])
    names = {*storage.listdir(folder.url)}
    for name in sorted({*datasets} - names) if datasets and outputs.CELLS not in names else ():
        if names & {*datasets}:
            yield f"{folder.place(name)} is missing, though it is one of the datasets of this study"
    there = {*storage.listdir(cells)} if outputs.CELLS in names else set[str]()
    for cell in state["cells"] if there else ():
        place = storage.join(cells, cell["cell"])
        if cell["status"] != "done":
            continue
        if cell["cell"] not in there or RESULTS not in storage.sizes(place):
            yield f"{place} is missing or has no {RESULTS}, though the study says that it is done"
            continue
        record = RunFolder(place, "", "").record()
        if record is not None and record.recipe_hash != cell["hash"]:
            yield f"{place} is another run than the one that {outputs.STATE} names; it was exchanged"
