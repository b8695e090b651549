"""Two commands that begin in the same moment on one folder, each in a process of its own."""

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
"""A command on a folder."""

SAME = re.compile(
    r".*\.(tar|jpg|png|txt)|\d+\.parquet|(prompts|predictions)\.\w+|metrics\.jsonl|results\.json|"
    r"(plan|imported|dataset|captions)\.json"
)
"""Files that hold no times and no places: their bytes are compared. Of the others, their names."""
OWN = re.compile(r"events\..*|\..*")
PATIENCE = 60
"""Seconds."""


class End(NamedTuple):
    """How a command ended: with nothing to say, refused in a sentence, or by an error that is none of the user's."""

    refusal: str = ""
    error: str = ""


def race(acts: Sequence[Act], folder: str) -> list[End]:
    """Let commands begin together; how each ended."""
    context = mp.get_context("fork")
    barrier, results = context.Barrier(len(acts)), [context.SimpleQueue() for _ in acts]

    def run(act: Act, result: Any) -> None:
        begin_without_threads()
        barrier.wait(PATIENCE)
        try:
            act(folder)
            end = End()
        except UserError as error:
            end = End(refusal=str(error))
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
    return [End(error="it died") if result.empty() else result.get() for result in results]


def prepared(place: Path, before: Sequence[str]) -> str:
    """A folder with what each of the commands finds there."""
    for one in before:
        shutil.copytree(one, place, dirs_exist_ok=True)
    return str(place)


def content(folder: str) -> dict[str, str]:
    """Path -> digest of what must not depend on how the folder came about, "" of the other files."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and not OWN.fullmatch(path.name):
            data = path.read_bytes() if SAME.fullmatch(path.name) else b""
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest() if data else ""
    return found
