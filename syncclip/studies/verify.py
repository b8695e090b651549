"""The check of a folder, whatever it holds (sets, runs, studies, packed datasets): every byte against its digest."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from syncclip import storage
from syncclip.core.progress import Progress
from syncclip.core.settings import UserError
from syncclip.datasets.packed import FIRST_PACKED_FILE, PACKED_FILE, PACKING, load_packed
from syncclip.evaluation.predict import PREDICTIONS, RESULTS
from syncclip.runs.classes import CLASSES
from syncclip.sets.export import EXPORT
from syncclip.sets.imported import IMPORTED, SET_RECIPE, read_set, require_content
from syncclip.sets.repair import absent
from syncclip.shards.index import COLUMNS, INDEX, Index, read_index
from syncclip.shards.samples import shards_by_markers
from syncclip.shards.verify import problems
from syncclip.studies import outputs
from syncclip.synthesis.filters.assets import FOLDER as FILTERS
from syncclip.synthesis.filters.assets import digest_of
from syncclip.synthesis.plan import PLAN_NAME
from syncclip.training.checkpoints import Marker
from syncclip.training.metrics_file import digest_of as digest_of_lines
from syncclip.training.metrics_file import lines_until
from syncclip.training.run_folder import CHECKPOINTS, METRICS, PROMPTS, RECIPE, RECORD, RunFolder, RunRecord

_SHARD = re.compile(r"([0-9]{5,})(\.tar|\.parquet|_stats\.json)")
_OF_SET = {PLAN_NAME, IMPORTED, SET_RECIPE, INDEX, COLUMNS}
"""Files of a set beside its shards; without one of them and without a marker, a tar is no shard of ours."""
_MARKER = re.compile(r"(step-\d+)\.json")
_CHECKPOINT = re.compile(r"step-\d+\.safetensors")
_CHANGED = "is not as it was written, it was damaged or edited"


@dataclass
class Verification:
    """What was found in a folder.

    Attributes:
        files: how many were read.
        without: those that carry no digest, since an earlier version or someone else wrote them.
        problems: a sentence for each damaged or missing file.
        shards: of the folder's own set those to be generated again; `mendable` of the problems are theirs.
    """

    files: int = 0
    without: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    shards: list[int] = field(default_factory=list)
    mendable: int = 0


def verify(url: str, tell: Callable[[str], None]) -> Verification:
    """Read every file in a folder and those below, and hold it against its digest.

    Args:
        tell: called with each problem as it is found.

    Raises:
        UserError: there is no such folder, or it can't be read.
    """
    found, folders = Verification(), list(_folders(url, storage.sizes(url)))
    if not any(names for _, names in folders):
        raise UserError(f"{url}: there is no file; give the folder of a set, a run, a study or a packed dataset")
    with Progress(sum(len(names) for _, names in folders), "files", "verify") as progress:
        for folder, names in folders:
            for sentence in _problems(folder, names, found, progress, folder == url):
                found.problems.append(sentence)
                tell(sentence)
    return found


def _folders(url: str, sizes: dict[str, int]) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below, each with the names of its files."""
    yield url, list(sizes)
    for name in storage.listdir(url):
        if name not in sizes:
            below = storage.join(url, name)
            yield from _folders(below, storage.sizes(below))


def _problems(folder: str, names: list[str], found: Verification, progress: Progress, first: bool) -> Iterator[str]:
    """What is wrong in one folder, one sentence each."""
    of_shards = {name: int(match[1]) for name in names if (match := _SHARD.fullmatch(name))}
    if _OF_SET.isdisjoint(names) and not any(name.endswith("_stats.json") for name in of_shards):
        of_shards = {}  # such as the tars of others, beside their predictions
    broken: set[int] = set()
    if of_shards:
        for problem in problems(folder, lambda: progress.update(2)):
            broken.add(problem.shard)
            found.mendable += first
            yield f"{folder}: {problem.sentence}"
    index = read_index(folder) if of_shards and not broken else None
    marked = shards_by_markers(folder).values() if index is not None else ()
    if index is not None and [one[:4] for one in index.shards] != [one[:4] for one in marked]:
        yield f"{folder}: {INDEX} is not that of these shards, some were exchanged; remove it, a mere shortcut"
    if of_shards or (not {PLAN_NAME, IMPORTED}.isdisjoint(names) and EXPORT not in names):
        try:
            missing = absent(folder, broken)
            if not broken and not missing and (known := read_set(folder)) is not None:
                require_content(known, folder)
        except UserError as error:
            missing = []
            if not isinstance(error, storage.DamagedError):  # that of a plan, whose own check tells
                yield str(error)
        broken.update(problem.shard for problem in missing)
        found.mendable += first * len(missing)
        yield from (f"{folder}: {problem.sentence}" for problem in missing)
    if first:
        found.shards = sorted(broken)
    checked = {name for name, shard in of_shards.items() if shard in broken or not name.endswith(".json")}
    found.files += len(checked)
    yield from _missing(folder, names)
    for name in sorted({*names} - checked):
        place = storage.join(folder, name)
        try:
            if not has_digest(folder, name):
                found.without.append(place)
        except storage.MissingError:
            continue  # removed since it was listed, as of a run that goes on
        except storage.UnreachableError:
            raise
        except UserError as error:
            yield str(error)
        found.files += 1
        progress.update(1)


def has_digest(folder: str, name: str) -> bool:
    """Whether a file carries a digest, or another file holds it.

    Raises:
        UserError: it is damaged.
    """
    place = storage.join(folder, name)
    kind = folder.rpartition("/")[2]
    if kind == CHECKPOINTS and _CHECKPOINT.fullmatch(name):
        marker = storage.read_document(f"{place.removesuffix('safetensors')}json", Marker, "remove it")
        return marker is not None and _same(place, hashlib.sha256(storage.read_bytes(place)).hexdigest(), marker.sha256)
    if kind == FILTERS and name.endswith(".safetensors"):
        return _same(place, digest_of(storage.read_bytes(place)), name.removesuffix(".safetensors"))
    if name == COLUMNS:
        try:
            index = storage.read_document(storage.join(folder, INDEX), Index, "remove it")
        except storage.DamagedError:  # which is told of itself
            return False
        return index is not None and _same(place, hashlib.sha256(storage.read_bytes(place)).hexdigest(), index.sha256)
    if name == METRICS:
        return _metrics(folder)
    if ".tfevents." in name:
        return _events(place)
    return storage.has_seal(place)


def _same(place: str, digest: str, wanted: str) -> bool:
    if digest != wanted:
        raise storage.DamagedError(f"{place} {_CHANGED}")
    return True


def _metrics(folder: str) -> bool:
    """Compare a run's lines with the digest in its record, or in its newest checkpoint while it isn't finished."""
    place = storage.join(folder, METRICS)
    record = storage.read_document(storage.join(folder, RECORD), RunRecord, "remove it")
    if record is not None and record.metrics_sha256 is not None:
        return _same(place, digest_of_lines([storage.read_bytes(place)]), record.metrics_sha256)
    checkpoints = storage.join(folder, CHECKPOINTS)
    for name in sorted(storage.sizes(checkpoints), reverse=True):
        if name.endswith(".json"):
            marker = storage.read_document(storage.join(checkpoints, name), Marker, "remove it")
            if marker is not None and marker.metrics is not None:
                return _same(place, digest_of_lines(lines_until(place, marker.step)), marker.metrics)
    return False


def _events(place: str) -> bool:
    """Check TensorBoard's own sums: each record is its length, the length's sum, the content, the content's sum.

    Where TensorBoard isn't installed, nothing here can compute them.
    """
    try:
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
    except ImportError:
        return False
    data, at = storage.read_bytes(place), 0
    while at + 12 <= len(data):
        size, end = struct.unpack_from("<Q", data, at)[0], at + 12
        _same(place, masked_crc32c(data[at : at + 8]), struct.unpack_from("<I", data, at + 8)[0])
        at = end + size + 4
        if at <= len(data):  # else its writer was stopped within it
            _same(place, masked_crc32c(data[end : end + size]), struct.unpack_from("<I", data, end + size)[0])
    return True


def _expected(folder: str, names: list[str]) -> Iterator[tuple[str, str]]:
    """The files that must lie in a folder beside others, and why."""
    if RECORD in names and (record := RunFolder(folder, "", "").record()) is not None:
        yield RECIPE, "a run has one"
        if record.status == "finished":
            yield PROMPTS, "the run is finished"
        if record.format > 1 and (record.origin is not None or RESULTS in names):
            yield CLASSES, "a run has it once it was evaluated or imported"
        if record.metrics_sha256 is not None:
            yield METRICS, f"{RECORD} holds its digest"
    elif PROMPTS in names:
        yield RECORD, "a run has one"
    for name in names:
        if match := _MARKER.fullmatch(name):
            yield f"{match[1]}.safetensors", "its marker is there"
    if INDEX in names:
        yield COLUMNS, f"{INDEX} holds its digest"
    if RESULTS in names and storage.has_seal(storage.join(folder, RESULTS)):  # earlier versions wrote none
        yield PREDICTIONS, f"{RESULTS} rests on it"
    if SET_RECIPE in names and IMPORTED not in names:
        yield PLAN_NAME, "a synthesis has one"
    if PACKING in names and FIRST_PACKED_FILE not in names:
        yield PACKED_FILE, "a dataset was packed there"
    if outputs.STATE in names and storage.has_seal(state := storage.join(folder, outputs.STATE)):
        yield outputs.RECIPE, "a study has one"
        told = outputs.read_json(state)
        if all(cell["status"] in ("done", "failed") for cell in told["cells"]):
            yield from ((name, "the study has ended") for name in outputs.ALWAYS)
        if outputs.FIT in names and "seen" in outputs.read_json(storage.join(folder, outputs.FIT)):
            yield outputs.ANSWERS, f"{outputs.FIT} rests on it"  # earlier versions wrote neither
        if outputs.FIT in names and told.get("datasets"):
            yield outputs.DATASETS, "a suite's study has one"
    elif outputs.TABLE in names:
        yield outputs.STATE, "a study has one"


def _missing(folder: str, names: list[str]) -> Iterator[str]:
    """What a record says is there, and isn't."""
    try:
        for name, why in _expected(folder, names):
            if name not in names:
                yield f"{storage.join(folder, name)} is missing, though {why}"
        if (packed := next((name for name in (PACKED_FILE, FIRST_PACKED_FILE) if name in names), None)) is not None:
            try:
                load_packed(storage.join(folder, packed)).split("train")
            except storage.DamagedError:
                pass  # its own check tells
            except KeyError:
                pass  # none was packed
            except UserError as error:
                yield str(error)
        if outputs.STATE in names:
            cells = storage.join(folder, outputs.CELLS)
            there = {*storage.listdir(cells)}
            state = outputs.read_json(storage.join(folder, outputs.STATE))
            datasets = state.get("datasets", [])
            for name in sorted({*datasets} - {*storage.listdir(folder)}) if datasets else ():
                yield f"{storage.join(folder, name)} is missing, though it is one of the datasets of this study"
            for cell in state["cells"] if not datasets else ():  # of a suite, its datasets' tell of theirs
                place = storage.join(cells, cell["cell"])
                if cell["status"] == "done" and (cell["cell"] not in there or RESULTS not in storage.sizes(place)):
                    yield f"{place} is missing or has no {RESULTS}, though the study says that it is done"
    except (UserError, json.JSONDecodeError, KeyError, TypeError):
        return  # of a damaged record its own check tells
