"""Checkpoints of a run: prompts, momentum and step, each committed by a small marker that is written last.

checkpoints/step-00000040.safetensors    parameter.<name>, momentum.<name>, of Adam momentum.<name>.<slot>, and the
                                         method's own memory.<name>
checkpoints/step-00000040.json           step, bytes and sha256 of the former, recipe, workers, metrics' digest; sealed
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import safetensors.torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from syncclip import storage
from syncclip.core.settings import UserError

KINDS = ("parameter", "momentum", "memory")
"""What the names of a checkpoint's tensors begin with, in the order of `Checkpoint`."""

_NAME = re.compile(r"step-(\d+)\.(json|safetensors)")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after `step` steps; with the data a pure function of the step, that is all there is."""

    step: int
    parameters: dict[str, Tensor]
    momentum: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)  # what the method carries from epoch to epoch
    workers: int = 1
    seconds: float = 0.0  # spent in training so far
    score: float | None = None  # how good it is, the higher the better, where the recipe asks for the best
    unscored: Sequence[float] = ()  # losses since the last one with a score, of one without, written for an interrupt
    metrics: str | None = None  # digest of the lines of metrics of its steps


class Marker(BaseModel):
    """The commit marker of a checkpoint: without it the checkpoint does not exist."""

    format: int = 1
    step: int
    bytes: int
    sha256: str
    recipe_hash: str
    workers: int
    seconds: float
    score: float | None = None
    unscored: list[float] | None = None
    metrics: str | None = None  # None: an earlier version wrote it


def write(folder: str, checkpoint: Checkpoint, recipe_hash: str, keep: int) -> None:
    """Commit a checkpoint, then remove all but the newest `keep` and the best of those that have a score.

    After a crash at any moment the checkpoints that were there before are still there, and this one is either whole
    or doesn't exist.
    """
    assert keep >= 1
    kinds = zip(KINDS, (checkpoint.parameters, checkpoint.momentum, checkpoint.memory), strict=True)
    tensors = {f"{kind}.{name}": value for kind, values in kinds for name, value in values.items()}
    data = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    marker = Marker(
        step=checkpoint.step,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        recipe_hash=recipe_hash,
        workers=checkpoint.workers,
        seconds=checkpoint.seconds,
        score=checkpoint.score,
        unscored=list(checkpoint.unscored) or None,
        metrics=checkpoint.metrics,
    )
    storage.write_bytes(_path(folder, checkpoint.step, "safetensors"), data)
    text, owner = marker.model_dump_json(exclude_none=True), storage.identity(recipe_hash)
    storage.write_sealed(_path(folder, checkpoint.step, "json"), text.encode(), owner=owner)
    if old := steps(folder)[:-keep]:
        good = best(folder)
        _remove(folder, [step for step in old if good is None or step != good[0]])


def newest(
    folder: str, recipe_hash: str, report: Callable[[str], None], metrics: Callable[[int], str] | None = None
) -> Checkpoint | None:
    """The newest checkpoint that is whole, None if there is none; damaged ones are reported by name and skipped.

    Args:
        metrics: gives the digest of the lines of metrics up to a step. One that was written with other lines is skipped
            as well, if there is an earlier one that was not: from that on, the run writes them again. If there is none,
            the lines stay as they are.

    Raises:
        UserError: a checkpoint of another recipe, or one that can't be read for reasons that are not its own.
    """
    there, whole = steps(folder), None
    for step in reversed(there):
        found, place = _read(folder, step, recipe_hash), f"checkpoint {_path(folder, step, 'safetensors')}"
        if not isinstance(found, Checkpoint):
            what = f"{place} is damaged ({found})"
        elif metrics is None or found.metrics in (None, metrics(step)):
            return found
        else:
            what, whole = (
                f"metrics.jsonl lacks lines that {place} was written with, or they were changed",
                whole or found,
            )
        then = (
            "none is left, so training starts over"
            if whole is None
            else f"going on from step {whole.step} all the same"
        )
        report(f"{what}; {'going back to the one before' if step > there[0] else then}")
    return whole


def steps(folder: str) -> list[int]:
    """The steps of all committed checkpoints, ascending; whether they are whole shows when they are read."""
    return sorted(step for step, kind in _files(folder) if kind == "json")


def best(folder: str) -> tuple[int, float] | None:
    """Step and score of the best checkpoint, of equals the first; None where none has a score."""
    scored: list[tuple[int, float]] = []
    for step in steps(folder):
        with contextlib.suppress(ValidationError, storage.DamagedError):
            score = Marker.model_validate_json(storage.read_sealed(_path(folder, step, "json"))).score
            scored += [(step, score)] if score is not None else []
    return max(scored, key=lambda found: (found[1], -found[0]), default=None)


def refuse_others(folder: str, recipe_hash: str) -> None:
    """Raise where a checkpoint is another recipe's.

    Raises:
        UserError: naming both.
    """
    for step in steps(folder)[-1:]:
        with contextlib.suppress(ValidationError, storage.DamagedError):
            _marker(folder, step, recipe_hash)


def discard_after(folder: str, step: int) -> None:
    """Remove what is newer than `step`, damaged checkpoints that would otherwise crowd out whole ones, and of older
    ones the tensors whose marker is gone: a kill came in the midst of their removal."""
    files = _files(folder)
    marked = {found for found, kind in files if kind == "json"}
    _remove(folder, sorted({found for found, _ in files if found > step or found not in marked}))


def _read(folder: str, step: int, recipe_hash: str) -> Checkpoint | str:
    """A checkpoint, or what is wrong with it."""
    try:
        marker = _marker(folder, step, recipe_hash)
    except (ValidationError, storage.DamagedError):
        return "its marker can't be read"
    if not storage.exists(_path(folder, step, "safetensors")):
        return "its tensors are missing"
    data = storage.read_bytes(_path(folder, step, "safetensors"))
    if len(data) != marker.bytes:
        return f"{len(data):,} of {marker.bytes:,} bytes"
    if hashlib.sha256(data).hexdigest() != marker.sha256:
        return "its checksum is wrong"
    kinds: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}  # those of a later version are left out
    for key, value in storage.parse_tensors(data, _path(folder, step, "safetensors"), "remove it").items():
        kind, _, name = key.partition(".")
        kinds.setdefault(kind, {})[name] = value
    parameters, momentum, memory = (kinds[kind] for kind in KINDS)
    known = marker.workers, marker.seconds, marker.score, marker.unscored or (), marker.metrics
    return Checkpoint(marker.step, parameters, momentum, memory, *known)


def _marker(folder: str, step: int, recipe_hash: str) -> Marker:
    path = _path(folder, step, "json")
    marker = Marker.model_validate_json(storage.read_sealed(path))
    if marker.recipe_hash != recipe_hash:
        raise UserError(
            f"{path} belongs to recipe {marker.recipe_hash[:12]}, not to {recipe_hash[:12]}; "
            "choose another folder or remove that run"
        )
    return marker


def _files(folder: str) -> list[tuple[int, str]]:
    if not storage.exists(folder):
        return []
    matches = (_NAME.fullmatch(name) for name in storage.listdir(folder))
    return [(int(match[1]), match[2]) for match in matches if match]


def _remove(folder: str, doomed: list[int]) -> None:
    present = set(_files(folder))
    for step in doomed:
        for kind in ("json", "safetensors"):  # the marker first: without it the checkpoint doesn't exist
            if (step, kind) in present:
                storage.remove(_path(folder, step, kind))


def _path(folder: str, step: int, kind: str) -> str:
    return storage.join(folder, f"step-{step:08d}.{kind}")
