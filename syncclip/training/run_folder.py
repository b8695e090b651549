"""Run folder, which contains a run's record (`run.json`), recipe and losses (`metrics.jsonl`)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO, Any, Literal

from pydantic import BaseModel

from syncclip import storage
from syncclip.core.formats import parse_json, parse_yaml
from syncclip.core.secrets import redacted
from syncclip.core.settings import UserError
from syncclip.core.versions import package_version
from syncclip.runtime.progress import print_message

RECORD, RECIPE, PROMPTS, METRICS = "run.json", "recipe.yaml", "prompts.safetensors", "metrics.jsonl"
CHECKPOINTS = "checkpoints"
EVENTS = ".tfevents."
"""Substring of TensorBoard event file names."""
DECIDING = ("dataset.", "backbone.", "methods.", "training.")
"""Prefixes of settings that identify a run."""


Inputs = dict[str, tuple[int, str]]
"""Number and checksum of the files of a custom method and of each split of custom data, keyed by description."""


class RunRecord(BaseModel):
    """Contents of `run.json`. All fields except timings are determined by the recipe and the package versions."""

    format: int = 2
    name: str
    recipe_hash: str
    status: Literal["running", "interrupted", "finished", "failed"] = "running"
    steps: int = 0  # completed steps
    total_steps: int = 0
    workers: int = 1
    versions: dict[str, str] = {}
    inputs: Inputs = {}
    logs: dict[str, str] = {}  # SHA-256 of metrics.jsonl and TensorBoard event files by name, once finished
    origin: str | None = None  # checkpoint from which the prompts were imported
    notes: list[str] = []  # events, such as a resumption or a damaged checkpoint
    error: str | None = None
    seconds: float = 0.0  # training time over all attempts
    seen: float | None = None  # fraction of the synthetic images used, once finished

    def note(self, sentence: str) -> None:
        """Print a message and add it to the notes."""
        print_message(sentence)
        self.notes.append(redacted(sentence))


@dataclass(frozen=True)
class RunFolder:
    """A run's path or URL, its recipe and its inputs; `recipe_text` is the resolved recipe as YAML."""

    url: str
    name: str
    recipe_hash: str
    recipe_text: str = ""
    inputs: Inputs = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """Owner ID of the run's files (see `storage.checksums`)."""
        return storage.identity(self.recipe_hash)

    def path(self, *parts: str) -> str:
        """Return the path or URL of a file in the folder."""
        return storage.join(self.url, *parts)

    def record(self) -> RunRecord | None:
        """Return the contents of `run.json`, or None for a new folder.

        Raises:
            UserError: `run.json` can't be read.
        """
        return storage.read_document(self.path(RECORD), RunRecord, "choose a different folder")

    def open(self) -> RunRecord | None:
        """Return the record of an earlier attempt at this run, or None for a new run, without writing to the folder.

        Raises:
            UserError: the folder contains a run with a different recipe or different inputs, unless that run failed
                before its first step.
        """
        record = self.record()
        changed = [] if record is None else changed_inputs(record.inputs, self.inputs)
        if record is None or (record.recipe_hash == self.recipe_hash and not changed):
            return record
        if record.status == "failed" and not record.total_steps:
            return None
        if record.recipe_hash == self.recipe_hash:
            raise UserError(
                f"{self.url} contains run '{record.name}', but its inputs have changed ({', '.join(changed)}); "
                "restore the files, choose a different folder, or remove this one"
            )
        raise UserError(
            f"{self.url} contains run '{record.name}' of recipe {record.recipe_hash[:12]}, but this is run "
            f"'{self.name}' of recipe {self.recipe_hash[:12]}{self._changes()}; "
            "choose a different folder, or remove this one"
        )

    def finished(self, record: RunRecord | None) -> bool:
        """Return whether the run is finished and its prompts exist."""
        return record is not None and record.status == "finished" and storage.exists(self.path(PROMPTS))

    def write(self, record: RunRecord) -> None:
        """Replace `run.json` atomically."""
        storage.write_document(self.path(RECORD), record, self.owner)

    def write_recipe(self) -> None:
        """Write the resolved recipe to `recipe.yaml`."""
        if self.recipe_text:
            storage.write_with_checksum(self.path(RECIPE), self.recipe_text.encode(), owner=self.owner)

    def _changes(self) -> str:
        path = self.path(RECIPE)
        if not self.recipe_text or not storage.exists(path):
            return ""
        differing = differences(storage.read_verified(path).decode(), self.recipe_text)
        changes = [change for change in differing if change.startswith(DECIDING)]
        return f" ({', '.join(changes[:5])}{', ...' if len(changes) > 5 else ''})" if changes else ""


def changed_inputs(before: Inputs, now: Inputs) -> list[str]:
    """Describe the inputs that have changed; inputs recorded on one side only are ignored."""
    return [
        f"{key}: {before[key][0]} -> {count} ({count - before[key][0]:+d})"
        if count != before[key][0]
        else f"{key}: modified"
        for key, (count, checksum) in now.items()
        if before.get(key, (count, checksum)) != (count, checksum)
    ]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that can affect bitwise reproducibility."""
    packages = ("syncclip", "torch", "open_clip_torch", "ray")
    return {"python": platform.python_version()} | {package: package_version(package) for package in packages}


def differences(old: str, new: str) -> list[str]:
    """Return a sorted list of settings that differ between two YAML recipes, as `section.key: old -> new`."""
    before, after = (_flat(parse_yaml(text, RECIPE)) for text in (old, new))
    return [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) or (key in before) != (key in after)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _shown(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key], default=str) if key in values else "absent"


class MetricsFile:
    """File with a run's losses, one JSON object per logged step. The file contains no timestamps and is bitwise
    reproducible.

    Lines are appended to local files, whereas remote files are replaced at every `sync`. If the disk is full, the run
    continues with `behind` set, and the next `sync` rewrites all lines or raises an error.

    Args:
        path: path or URL of the file. Truncated lines and lines after `step` are dropped, since their steps will be
            repeated.
        step: number of completed steps.

    Raises:
        UserError: the file can't be written.
    """

    def __init__(self, path: str, step: int) -> None:
        self._path = path
        self._lines = lines_until(path, step) if step else []
        self._step = step
        self._file: IO[bytes] | None = None
        self._replace()

    @property
    def digest(self) -> str:
        """SHA-256 of all lines, in hex."""
        return digest_of(self._lines)

    @property
    def behind(self) -> bool:
        """Whether appending a line to a local file has failed."""
        return self._file is None and storage.is_local(self._path)

    def write(self, **values: Any) -> None:
        """Append a line with a step's values."""
        assert values["step"] > self._step
        self._step = values["step"]
        line = (json.dumps(values, allow_nan=False) + "\n").encode()
        self._lines.append(line)
        if self._file is not None:
            try:
                self._file.write(line)
                self._file.flush()
            except OSError:
                self._close_file()

    def sync(self) -> None:
        """Write all lines to durable storage.

        Raises:
            UserError: the disk is full or the storage is unavailable.
        """
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
                return
            except OSError:
                self._close_file()
        self._replace()

    def close(self) -> None:
        """Write all lines to durable storage, if possible, and close the file."""
        with contextlib.suppress(UserError):  # would mask an earlier error
            self.sync()
        self._close_file()

    def _replace(self) -> None:
        storage.write_bytes(self._path, b"".join(self._lines))
        if storage.is_local(self._path):
            self._file = storage.local_path(self._path).open("ab")

    def _close_file(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # flushing the buffer failed, but the file is closed
                self._file.close()
            self._file = None


def last_line(path: str) -> dict[str, Any] | None:
    """Return the values of a metrics file's last complete line, or None if no line is complete."""
    lines = _lines(path)
    return lines[-1][1] if lines else None


def lines_until(path: str, step: int) -> list[bytes]:
    """Return a metrics file's complete lines up to and including `step`."""
    return [line for line, values in _lines(path) if values["step"] <= step]


def digest_of(lines: Iterable[bytes]) -> str:
    """Return the SHA-256 of metrics lines in hex, as stored in the record and in checkpoint markers."""
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _lines(path: str) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the complete lines with their values; skip truncated and unreadable lines."""
    lines: list[tuple[bytes, dict[str, Any]]] = []
    if storage.exists(path):
        for line in storage.read_bytes(path).splitlines(keepends=True):
            with contextlib.suppress(UserError):
                if line.endswith(b"\n") and "step" in (values := parse_json(line, path, dict)):
                    lines.append((line, values))
    return lines
