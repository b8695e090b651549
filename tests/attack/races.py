"""Two commands that start at the same time on one folder, each in a process of its own."""

from __future__ import annotations

import hashlib
import multiprocessing as mp
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from syncclip.core.settings import UserError
from tests.attack.kills import begin_without_threads

Act = Callable[[str], Any]
"""A command that takes a folder."""

SAME = re.compile(
    r".*\.(tar|jpg|png|txt)|\d+\.parquet|(prompts|predictions)\.\w+|metrics\.jsonl|results\.json|"
    r"(plan|imported|dataset|captions)\.json"
)
"""Files without times and paths, whose content is compared; of other files, only the names are."""
OWN = re.compile(r"events\..*|\..*")
PATIENCE = 60
"""Timeout in seconds."""


class End(NamedTuple):
    """How a command ended: success, a user error, or another error."""

    user_error: str = ""
    error: str = ""


def race(acts: Sequence[Act], folder: str) -> list[End]:
    """Run commands concurrently; returns how each ended."""
    context = mp.get_context("fork")
    barrier, results = context.Barrier(len(acts)), [context.SimpleQueue() for _ in acts]

    def run(act: Act, result: Any) -> None:
        begin_without_threads()
        barrier.wait(PATIENCE)
        try:
            act(folder)
            end = End()
        except UserError as error:
            end = End(user_error=str(error))
        except BaseException as error:
            end = End(error=f"{type(error).__name__}: {error}")
        result.put(end)

    racers = [context.Process(target=run, args=pair) for pair in zip(acts, results, strict=True)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(PATIENCE)
    hanging = [racer for racer in racers if racer.exitcode is None]
    for racer in hanging:
        racer.kill()
    assert not hanging, f"{len(hanging)} of the commands did not end"
    return [End(error="the process died") if result.empty() else result.get() for result in results]


def prepared(folder: Path, sources: Sequence[str]) -> str:
    """Copy the required input of the commands into a folder."""
    for source in sources:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    return str(folder)


def content(folder: str) -> dict[str, str]:
    """Path -> checksum of the files that must not depend on the order of commands, "" for other files."""
    checksums = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and not OWN.fullmatch(path.name):
            data = path.read_bytes() if SAME.fullmatch(path.name) else b""
            checksums[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest() if data else ""
    return checksums
