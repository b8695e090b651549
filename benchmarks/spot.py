"""Spot test: generate a dataset on simulated nodes while actors are killed and nodes are lost and replaced.

    python -m benchmarks.spot --nodes 8 --actors-per-node 4

Ray runs one raylet per node on this machine. The bytes must equal those of an undisturbed run, in a single command
with a single execution. A killed actor loses the shard that it is computing and the shard that it is writing.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from syncclip.core import text
from tests.worlds.chaos import digests, occurrences, undisturbed_bytes
from tests.worlds.light import LEDGER, PACE, Note, light_plan, read_notes

app = typer.Typer(add_completion=False)
MEMORY = 100_000_000
"""Object store of each node in bytes."""


@dataclass
class Losses:
    """Counts of lost processes."""

    actors: int = 0
    """Number of killed actors, without those on lost nodes."""
    nodes: int = 0
    on_nodes: int = 0
    """Number of actors on lost nodes."""
    loaded: int = 0
    """Number of killed actors, including those on lost nodes, that had loaded the generator."""
    minutes: float = 0.0
    """Minutes from the first image to the end."""


@app.command()
def spot(
    nodes: Annotated[int, typer.Option(help="Number of nodes.")] = 8,
    actors_per_node: Annotated[int, typer.Option(help="Number of actors per node.")] = 4,
    shards: Annotated[int, typer.Option(help="Number of shards.")] = 600,
    shard_size: Annotated[int, typer.Option(help="Images per shard.")] = 64,
    pace: Annotated[float, typer.Option(help="Seconds per image.")] = 0.1,
    kills: Annotated[float, typer.Option(help="Killed actors per minute.")] = 20.0,
    losses: Annotated[float, typer.Option(help="Lost nodes per minute.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    limit: Annotated[float, typer.Option(help="Timeout in seconds.")] = 3600.0,
) -> None:
    """Generate a dataset with and without losses, compare the bytes, and report lost work and loads."""
    plan = light_plan(shards, shard_size, batch_size=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = undisturbed_bytes(plan, folder / "quiet")
        (folder / "plan.json").write_text(plan.model_dump_json())
        began = time.time()
        lost = _run(folder, nodes, actors_per_node, pace, (kills, losses), seed, limit)
        seconds = time.time() - began
        notes, same = read_notes(folder / "draws.txt"), digests(str(folder / "set")) == expected
        counts = occurrences(plan, str(folder / "set")).values()
    drawn = sum(note.images for note in notes if note.event == "draw")
    loads = Counter(note.actor for note in notes if note.event == "load")
    executions = sum(note.event == "execute" for note in notes)
    rows = [
        ("nodes", nodes),
        ("actors", nodes * actors_per_node),
        ("shards", shards),
        ("images", plan.total),
        ("killed actors", lost.actors),
        ("lost nodes", lost.nodes),
        ("actors on lost nodes", lost.on_nodes),
        ("killed or lost actors that had loaded", lost.loaded),
        ("executions", executions),
        ("processes that loaded the generator", len(loads)),
        ("maximum loads per process", max(loads.values())),
        ("images computed twice", drawn - plan.total),
        ("seconds", round(seconds)),
    ]
    text.show(text.table("Spot run", ["", "count"], rows))
    repeated = (drawn - plan.total) / shard_size
    missing, double = sum(count == 0 for count in counts), sum(count > 1 for count in counts)
    text.show(f"{lost.actors / lost.minutes:.1f} kills and {lost.nodes / lost.minutes:.1f} lost nodes per minute")
    text.show(
        f"{repeated / max(1, lost.actors + lost.on_nodes):.2f} shards lost per killed or lost actor, "
        f"{repeated / max(1, lost.loaded):.2f} per killed or lost actor that had loaded"
    )
    text.show(f"{missing} images missing, {double} duplicated, bytes equal: {same}")
    if not same or missing or double or executions != 1 or max(loads.values()) > 1:
        sys.exit(1)


def _run(
    folder: Path,
    nodes: int,
    actors_per_node: int,
    pace: float,
    rates: tuple[float, float],
    seed: int,
    limit: float,
) -> Losses:
    """Generate the dataset on a cluster, and lose actors and nodes at the given rates per minute."""
    from ray.cluster_utils import Cluster

    rng, lost, ledger = random.Random(seed), Losses(), folder / "draws.txt"
    ledger.touch()
    environment = os.environ | {PACE: str(pace), LEDGER: str(ledger), "PYTHONPATH": os.pathsep.join(sys.path)}
    os.environ |= {PACE: environment[PACE], LEDGER: environment[LEDGER], "PYTHONPATH": environment["PYTHONPATH"]}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY})
    node: dict[str, Any] = {"num_cpus": actors_per_node, "object_store_memory": MEMORY}
    members = [cluster.add_node(**node) for _ in range(nodes)]
    arguments = [sys.executable, "-m", "tests.worlds.light", str(folder / "plan.json"), str(folder / "set")]
    arguments.append(str(nodes * actors_per_node))
    waits = [60 / rate if rate else float("inf") for rate in rates]
    try:
        environment["RAY_ADDRESS"] = cluster.address
        with subprocess.Popen(arguments, env=environment) as command:
            began = time.monotonic()
            while not any(note.event == "draw" for note in read_notes(ledger)) and command.poll() is None:
                time.sleep(0.5)
            first = time.monotonic()
            due = [first + rng.expovariate(1 / wait) if wait < limit else float("inf") for wait in waits]
            while command.poll() is None:
                time.sleep(0.2)
                now = time.monotonic()
                while now >= due[0] and (actors := _actors()):
                    due[0] += rng.expovariate(1 / waits[0])
                    with contextlib.suppress(psutil.NoSuchProcess):
                        (actor := rng.choice(actors)).kill()
                        lost.actors += 1
                        lost.loaded += actor.pid in _loaded(read_notes(ledger))
                if now >= due[1]:
                    due[1] += rng.expovariate(1 / waits[1])
                    victim = members.pop(rng.randrange(len(members)))
                    raylet = psutil.Process(victim.all_processes["raylet"][0].process.pid)
                    on_node = {process.pid for process in raylet.children(recursive=True)}
                    on_node &= {process.pid for process in _actors()}
                    loaded = on_node & _loaded(read_notes(ledger))
                    cluster.remove_node(victim, allow_graceful=False)
                    lost.nodes += 1
                    lost.on_nodes += len(on_node)
                    lost.loaded += len(loaded)
                    members.append(cluster.add_node(wait=False, **node))
                if now - began > limit:
                    command.kill()
            lost.minutes = (time.monotonic() - first) / 60
            if command.returncode:
                raise SystemExit(f"the command ended with status {command.returncode} after {lost}")
    finally:
        cluster.shutdown()
    return lost


def _loaded(notes: list[Note]) -> set[int]:
    """Return the process IDs of the actors that have loaded the generator."""
    return {note.actor for note in notes if note.event == "load"}


def _actors() -> list[psutil.Process]:
    """Return the live actor processes, in order of their IDs."""
    actors = []
    for process in psutil.process_iter(["cmdline", "status"]):
        title = " ".join(process.info["cmdline"] or ())
        if title.startswith("ray::") and "ShardRow" in title and process.info["status"] != psutil.STATUS_ZOMBIE:
            actors.append(process)
    return sorted(actors, key=lambda process: process.pid)


if __name__ == "__main__":
    app()
