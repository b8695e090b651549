"""Synthesis while processes are killed (-9) and requests to the object store fail, and its cost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple
from unittest import mock

import psutil

from syncclip import storage
from syncclip.shards.markers import committed
from syncclip.shards.tables import read_table
from syncclip.synthesis.generators.licences import licence_of
from syncclip.synthesis.generators.weights import locate
from syncclip.synthesis.plan import Plan, write_plan
from tests.worlds.light import LEDGER, PACE, LightWorker, Note, read_notes

Kind = Literal["actor", "driver", "queue", "worker"]
DECK: tuple[Kind, ...] = (*["actor"] * 7, "driver", "queue", "worker")
"""Targets of ten kills, to be shuffled. `queue`: the actor that assigns shards; `worker`: other workers of Ray."""

SIGNS: dict[str, Kind | None] = {"Agent": None, "ShardRow": "actor", "ShardQueue": "queue", "ray::": "worker"}
"""Text in the title of a worker process -> its kind, by the first match. Without its agents, Ray would end a node."""


@dataclass
class Outcome:
    """Events during the synthesis of a dataset."""

    expected: int
    """Number of images of the dataset."""
    kills: Counter[str] = field(default_factory=Counter)
    """Kind -> number of killed processes."""
    deaths: int = 0
    """Number of actors that were killed, or ended with their driver or queue."""
    commands: int = 0
    """Number of runs of the command."""
    refusals: list[str] = field(default_factory=list)
    """Error messages of the command."""
    notes: list[Note] = field(default_factory=list)
    lifetimes: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Process ID of an actor -> times at which its process was first and last seen."""
    ended: float = 0.0
    seconds: float = 0.0
    """From the first command to the end of the last."""

    @property
    def wasted(self) -> int:
        """Number of generated images that are not in the dataset."""
        return sum(note.images for note in self.notes if note.event == "draw") - self.expected

    @property
    def failed(self) -> int:
        """Number of images of failed shards."""
        return sum(note.images for note in self.notes if note.event == "fail")

    @property
    def alive(self) -> float:
        """Total seconds for which actors were alive."""
        return sum(last - first for first, last in self.lifetimes.values())

    @property
    def began(self) -> float:
        """Start of the first actor."""
        return min(first for first, _ in self.lifetimes.values())

    @property
    def load(self) -> float:
        """Mean seconds from an actor's start to its first batch, over actors with a batch."""
        drawn = {note.actor: note.time for note in reversed(self.notes) if note.event == "draw"}
        times = [time - self.lifetimes[actor][0] for actor, time in drawn.items() if actor in self.lifetimes]
        return sum(times) / len(times)


class Conditions(NamedTuple):
    """Conditions of the synthesis."""

    endpoint: str
    """URL of the S3 server."""
    actors: int
    pace: float
    """Seconds per image."""
    every: float = 0.0
    """Mean of the exponentially distributed number of images between two kills; 0: no kills."""
    seed: int = 0
    limit: float = 3600.0
    """Timeout in seconds."""


def storm(plan: Plan, url: str, folder: Path, conditions: Conditions) -> Outcome:
    """Repeat the command until it succeeds; writes plan, ledger and logs into `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "plan.json").write_text(plan.model_dump_json())
    ledger = folder / "draws.txt"
    ledger.touch()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {PACE: str(conditions.pace), LEDGER: str(ledger), "AWS_ENDPOINT_URL_S3": conditions.endpoint}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    outcome, killer = Outcome(plan.total), Killer(ledger, conditions.every, random.Random(conditions.seed))
    began = time.time()
    deadline = began + conditions.limit
    while True:
        outcome.commands += 1
        log = folder / f"command{outcome.commands}.log"
        line = [sys.executable, "-m", "tests.worlds.light", str(folder / "plan.json"), url, str(conditions.actors)]
        family: set[psutil.Process] = set()
        with log.open("wb") as out, subprocess.Popen(line, env=environment, stdout=out, stderr=out) as command:
            while command.poll() is None:
                time.sleep(0.05)
                with contextlib.suppress(psutil.NoSuchProcess):
                    family.update(psutil.Process(command.pid).children(recursive=True))
                _see_actors(family, outcome.lifetimes)
                killer.strike(psutil.Process(command.pid), family)
                if time.time() > deadline:
                    command.kill()
        outcome.ended = time.time()
        _wait_for(family)
        if time.time() > deadline:
            raise TimeoutError(
                f"not complete after {conditions.limit:g} s and {dict(killer.kills)}: {log.read_text()[-2000:]}"
            )
        if command.returncode == 0:
            break
        if command.returncode != -signal.SIGKILL:
            outcome.refusals.append(log.read_text().strip().splitlines()[-1])
    outcome.seconds = outcome.ended - began
    outcome.notes = [note for note in read_notes(ledger) if note.event in ("draw", "fail")]
    outcome.kills, outcome.deaths = killer.kills, killer.deaths
    return outcome


class Killer:
    """Kills processes (-9) after random numbers of images."""

    def __init__(self, ledger: Path, every: float, rng: random.Random) -> None:
        self.ledger, self.every, self.rng = ledger, every, rng
        self.kills: Counter[str] = Counter()
        self.deaths = 0
        """Number of actors that were killed, or ended with their driver or queue."""
        self._deck: list[Kind] = []
        self._next = self._later(0.0)

    def strike(self, driver: psutil.Process, family: set[psutil.Process]) -> None:
        """Kill a process of a command if enough images were generated."""
        drawn = sum(note.images for note in read_notes(self.ledger) if note.event == "draw")
        if drawn < self._next:
            return
        processes: dict[Kind, list[psutil.Process]] = {"driver": [driver]}
        for process in family:
            if (kind := _kind(process)) is not None:
                processes.setdefault(kind, []).append(process)
        if "actor" not in processes:  # starting
            return
        self._deck = self._deck or self.rng.sample(DECK, len(DECK))
        kind = next((kind for kind in self._deck if kind in processes), "actor")
        victim = self.rng.choice(sorted(processes[kind], key=lambda process: process.pid))
        time.sleep(self.rng.uniform(0.0, 0.5))  # at a random point of a shard
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
            self.kills[kind] += 1
            if kind in self._deck:
                self._deck.remove(kind)
            self.deaths += {"actor": 1, "worker": 0}.get(kind, len(processes["actor"]))
        self._next = self._later(drawn)

    def _later(self, drawn: float) -> float:
        return drawn + self.rng.expovariate(1 / self.every) if self.every else float("inf")


def _kind(process: psutil.Process) -> Kind | None:
    try:
        title = " ".join(process.cmdline())
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    sign = next((sign for sign in SIGNS if sign in title), None) if alive and title.startswith("ray::") else None
    return SIGNS[sign] if sign is not None else None


def _see_actors(family: set[psutil.Process], lifetimes: dict[int, tuple[float, float]]) -> None:
    for process in family:
        if _kind(process) == "actor":
            now = time.time()
            lifetimes[process.pid] = lifetimes.get(process.pid, (now, now))[0], now


def _wait_for(family: set[psutil.Process]) -> None:
    """Wait for the end of a command's Ray, which also ends after a kill of its driver."""
    psutil.wait_procs(list(family), 30.0)


def undisturbed_bytes(plan: Plan, folder: Path) -> dict[str, str]:
    """Return the checksums of the dataset generated in this process without faults."""
    located = locate(plan.generator)
    licence = licence_of(plan.generator, located)
    complete = plan.model_copy(update={"weights": located.fingerprint, "licence": licence})
    written = write_plan(complete, str(folder)).model_dump_json()
    worker = LightWorker(written, str(folder), "cpu", "icons", owner=complete.owner)
    with mock.patch.dict(os.environ, {PACE: "0", LEDGER: os.devnull}):
        errors = [worker({"shard": shard})["error"] for shard in plan.shards()]
    assert not any(errors), errors
    return digests(str(folder))


def digests(url: str) -> dict[str, str]:
    """Return name -> sha256 of deterministic files (markers contain durations)."""
    names = [name for name in storage.sizes(url) if name.endswith((".tar", ".parquet")) or name == "plan.json"]
    texts = storage.read_many([storage.join(url, name) for name in names], checksum_required=False)
    return {path.rpartition("/")[2]: hashlib.sha256(text).hexdigest() for path, text in texts.items()}


def occurrences(plan: Plan, url: str) -> Counter[int]:
    """Return sample index -> number of committed shards that contain it."""
    counts = Counter(dict.fromkeys(range(plan.total), 0))
    for shard, stats in committed(url).items():
        counts.update(read_table(url, shard, str(stats.table_sha256))["index"].to_pylist())
    return counts
