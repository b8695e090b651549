"""Read and write a run's checkpoints. Each checkpoint is committed by its marker, which is written last.

checkpoints/step-00000040.safetensors    parameter.<name>, momentum.<name> (Adam: momentum.<name>.<slot>), memory.<name>
checkpoints/step-00000040.json           marker: step, size and checksums of the tensors and metrics, recipe, workers
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
"""Tensor name prefixes, in the order of the `Checkpoint` fields."""

_NAME = re.compile(r"step-(\d+)\.(json|safetensors)")


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after `step` steps, without the data order, which is a function of the step."""

    step: int
    parameters: dict[str, Tensor]
    momentum: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)  # `Method.memory`
    workers: int = 1
    seconds: float = 0.0  # training time so far
    score: float | None = None  # higher is better; None without `keep_best`
    unscored: Sequence[float] = ()  # losses since the last scored checkpoint; only if the run was interrupted
    metrics: str | None = None  # SHA-256 of the lines of metrics up to this step


class Marker(BaseModel):
    """Commit marker of a checkpoint; checkpoints without a marker are ignored."""

    format: int = 1
    step: int
    bytes: int
    sha256: str
    recipe_hash: str
    workers: int
    seconds: float
    score: float | None = None
    unscored: list[float] | None = None
    metrics: str | None = None


def write(folder: str, checkpoint: Checkpoint, recipe_hash: str, keep: int) -> None:
    """Commit a checkpoint, then remove all checkpoints except the newest `keep` and the best.

    After a crash at any time, earlier checkpoints are intact, and the new checkpoint is either complete or ignored.
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
    storage.write_with_checksum(_path(folder, checkpoint.step, "json"), text.encode(), owner=owner)
    if old := steps(folder)[:-keep]:
        good = best(folder)
        _remove(folder, [step for step in old if good is None or step != good[0]])


def newest(
    folder: str, recipe_hash: str, report: Callable[[str], None], metrics: Callable[[int], str] | None = None
) -> Checkpoint | None:
    """Return the newest intact checkpoint, or None if there is none; report and skip damaged checkpoints.

    Args:
        metrics: function that returns the SHA-256 of all metrics lines up to a step. If this hash differs from the hash
            in the checkpoint, an earlier checkpoint with a matching hash is preferred, and the run rewrites the lines.

    Raises:
        UserError: a checkpoint belongs to a different recipe, or the storage can't be read.
    """
    committed, fallback = steps(folder), None
    for step in reversed(committed):
        checkpoint, name = _read(folder, step, recipe_hash), f"checkpoint {_path(folder, step, 'safetensors')}"
        if not isinstance(checkpoint, Checkpoint):
            problem = f"{name} is damaged ({checkpoint})"
        elif metrics is None or checkpoint.metrics in (None, metrics(step)):
            return checkpoint
        else:
            problem = f"metrics.jsonl does not match {name}: earlier lines are missing or were changed"
            fallback = fallback or checkpoint
        if step > committed[0]:
            action = "using the previous checkpoint"
        elif fallback is None:
            action = "no checkpoint is left, so training starts over"
        else:
            action = f"resuming from step {fallback.step} anyway"
        report(f"{problem}; {action}")
    return fallback


def steps(folder: str) -> list[int]:
    """Return the steps of all committed checkpoints, including damaged ones, in ascending order."""
    return sorted(step for step, kind in _files(folder) if kind == "json")


def best(folder: str) -> tuple[int, float] | None:
    """Return the step and score of the best checkpoint (the earliest if tied), or None if no checkpoint has a score."""
    scored: list[tuple[int, float]] = []
    for step in steps(folder):
        with contextlib.suppress(ValidationError, storage.DamagedError):
            score = Marker.model_validate_json(storage.read_verified(_path(folder, step, "json"))).score
            scored += [(step, score)] if score is not None else []
    return max(scored, key=lambda pair: (pair[1], -pair[0]), default=None)


def check_recipe(folder: str, recipe_hash: str) -> None:
    """Raise a UserError if the newest checkpoint belongs to a different recipe."""
    for step in steps(folder)[-1:]:
        with contextlib.suppress(ValidationError, storage.DamagedError):
            _marker(folder, step, recipe_hash)


def discard_after(folder: str, step: int) -> None:
    """Remove unusable checkpoints after `step`, and tensor files without a marker."""
    files = _files(folder)
    marked = {number for number, kind in files if kind == "json"}
    _remove(folder, sorted({number for number, _ in files if number > step or number not in marked}))


def _read(folder: str, step: int, recipe_hash: str) -> Checkpoint | str:
    """Return a checkpoint or, if it is damaged, a description of the damage."""
    try:
        marker = _marker(folder, step, recipe_hash)
    except (ValidationError, storage.DamagedError):
        return "its marker can't be read"
    path = _path(folder, step, "safetensors")
    if not storage.exists(path):
        return "its tensors are missing"
    data = storage.read_bytes(path)
    if len(data) != marker.bytes:
        return f"its tensors have {len(data):,} instead of {marker.bytes:,} bytes"
    if hashlib.sha256(data).hexdigest() != marker.sha256:
        return "its checksum is wrong"
    kinds: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    for key, value in storage.parse_tensors(data, path, "remove it").items():
        kind, _, name = key.partition(".")
        kinds.setdefault(kind, {})[name] = value
    parameters, momentum, memory = (kinds[kind] for kind in KINDS)
    facts = marker.workers, marker.seconds, marker.score, marker.unscored or (), marker.metrics
    return Checkpoint(marker.step, parameters, momentum, memory, *facts)


def _marker(folder: str, step: int, recipe_hash: str) -> Marker:
    path = _path(folder, step, "json")
    marker = Marker.model_validate_json(storage.read_verified(path))
    if marker.recipe_hash != recipe_hash:
        raise UserError(
            f"{path} belongs to recipe {marker.recipe_hash[:12]}, not to {recipe_hash[:12]}; "
            "choose a different folder or remove that run"
        )
    return marker


def _files(folder: str) -> list[tuple[int, str]]:
    if not storage.exists(folder):
        return []
    matches = (_NAME.fullmatch(name) for name in storage.listdir(folder))
    return [(int(match[1]), match[2]) for match in matches if match]


def _remove(folder: str, numbers: list[int]) -> None:
    existing = set(_files(folder))
    for step in numbers:
        for kind in ("json", "safetensors"):  # removing the marker first invalidates the checkpoint
            if (step, kind) in existing:
                storage.remove(_path(folder, step, kind))


def _path(folder: str, step: int, kind: str) -> str:
    return storage.join(folder, f"step-{step:08d}.{kind}")
