"""The run folder: which recipe it belongs to, with which versions it was made, and whether it is finished."""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from syncclip import storage
from syncclip.core.formats import parse_yaml
from syncclip.core.secrets import redacted
from syncclip.core.settings import UserError
from syncclip.core.versions import package_version
from syncclip.runtime.progress import say

RECORD, RECIPE, PROMPTS, METRICS = "run.json", "recipe.yaml", "prompts.safetensors", "metrics.jsonl"
CHECKPOINTS = "checkpoints"
EVENTS = ".tfevents."
"""Part of the names of TensorBoard's files."""
DECIDING = ("dataset.", "backbone.", "methods.", "training.")
"""Keys of a recipe that may make a run another one; the settings of a study or an evaluation do not."""


class RunRecord(BaseModel):
    """What `run.json` holds. Times are facts about one machine; everything else follows from recipe and versions."""

    format: int = 2  # 1: of versions that kept no classes.json beside the results
    name: str
    recipe_hash: str
    status: Literal["running", "interrupted", "finished", "failed"] = "running"
    steps: int = 0  # made when this was written
    total_steps: int = 0
    workers: int = 1
    versions: dict[str, str] = {}
    logs: dict[str, str] = {}  # of a finished run, file -> sha256 of metrics.jsonl and TensorBoard's events
    origin: str | None = None  # of prompts that were not learned here: the checkpoint that they are from
    notes: list[str] = []  # what happened on the way: resumed, a damaged checkpoint skipped, other versions
    error: str | None = None
    seconds: float = 0.0  # spent in training steps, over all starts
    seen: float | None = None  # share of the synthetic images that a finished run has seen

    def note(self, sentence: str) -> None:
        """Print what happened, and keep it."""
        say(sentence)
        self.notes.append(redacted(sentence))


@dataclass(frozen=True)
class RunFolder:
    """Where a run is kept (a path or URL) and which recipe it follows; `recipe_text` is the resolved recipe as YAML."""

    url: str
    name: str
    recipe_hash: str
    recipe_text: str = ""

    @property
    def owner(self) -> str:
        """Identity of the run's files, see `storage.seals`."""
        return storage.identity(self.recipe_hash)

    def path(self, *parts: str) -> str:
        """The path of something in the folder."""
        return storage.join(self.url, *parts)

    def record(self) -> RunRecord | None:
        """What `run.json` says, None for a new folder.

        Raises:
            UserError: `run.json` is there but can't be read.
        """
        return storage.read_document(self.path(RECORD), RunRecord, "choose another folder")

    def open(self) -> RunRecord | None:
        """The record of an earlier start of this same run, None for a new one; changes nothing.

        What failed before its first step, as over an empty set, binds the folder to no recipe.

        Raises:
            UserError: the folder holds a run of another recipe; the sentence names both and what differs.
        """
        record = self.record()
        if record is None or record.recipe_hash == self.recipe_hash:
            return record
        if record.status == "failed" and not record.total_steps:
            return None
        raise UserError(
            f"{self.url} holds run '{record.name}' of recipe {record.recipe_hash[:12]}, but this is run '{self.name}' "
            f"of recipe {self.recipe_hash[:12]}{self._changes()}; choose another folder or remove that one"
        )

    def finished(self, record: RunRecord | None) -> bool:
        """Whether nothing is left to be done."""
        return record is not None and record.status == "finished" and storage.exists(self.path(PROMPTS))

    def write(self, record: RunRecord) -> None:
        """Replace `run.json`; after a crash either the old or the new one is there."""
        storage.write_document(self.path(RECORD), record, self.owner)

    def write_recipe(self) -> None:
        """Write the resolved recipe beside the results, where one was given."""
        if self.recipe_text:
            storage.write_sealed(self.path(RECIPE), self.recipe_text.encode(), owner=self.owner)

    def _changes(self) -> str:
        path = self.path(RECIPE)
        if not self.recipe_text or not storage.exists(path):
            return ""
        found = differences(storage.read_sealed(path).decode(), self.recipe_text)
        changes = [change for change in found if change.startswith(DECIDING)]
        return f" ({', '.join(changes[:5])}{', ...' if len(changes) > 5 else ''})" if changes else ""


def versions() -> dict[str, str]:
    """The versions that a run's bits depend on."""
    packages = ("syncclip", "torch", "open_clip_torch", "ray")
    return {"python": platform.python_version()} | {package: package_version(package) for package in packages}


def differences(old: str, new: str) -> list[str]:
    """The keys in which two YAML recipes differ, as `section.key: old -> new`, in the order of the keys."""
    before, after = (_flat(parse_yaml(text, RECIPE)) for text in (old, new))
    return [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) or (key in before) != (key in after)
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found.update(_flat(inner, f"{prefix}.{key}" if prefix else str(key)))
    return found


def _shown(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key], default=str) if key in values else "absent"
