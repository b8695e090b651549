"""Test of an autoscaling cluster on this machine, without ssh, a cloud account or containers.

    make rehearsal                                   # or: python -m cluster.rehearsal RECIPE [KEY=VALUE]..

Workers join the head when a job needs them (`rehearsal.yaml`). One worker is killed and replaced while the other is
suspended, and all terminate after the job. The dataset must be byte-identical to one generated without a cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
import yaml

from cluster.one_machine import VARIABLES, Head, waited
from syncclip.core import text
from syncclip.synthesis.plan import read_plan

CONFIG = Path(__file__).with_suffix(".yaml")

WORKERS = 2
"""Maximum number of workers in `rehearsal.yaml`, each with the CPU of one actor."""

SMALL = ("synthesis.images_per_class=8", "synthesis.shard_size=44", f"synthesis.actors={WORKERS}")
"""Default overrides, for a dataset that is generated in less than a minute."""

MIDDLE = 2
"""Number of committed shards after which a worker is killed."""

HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 5}
"""Ray settings to detect lost workers faster than by default (half a minute)."""

BYTES = ("*.tar", "*.parquet", "plan.json")
"""Files of a dataset that are byte-identical in every run; other files contain timestamps."""

app = typer.Typer(add_completion=False)


@app.command()
def rehearse(
    recipe: Annotated[str, typer.Argument(help="Recipe, as for `syncclip synth`.")] = "travel",
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]..")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for both datasets; default: a temporary folder.")] = None,
) -> None:
    """Generate a dataset on autoscaled workers, kill one worker, and compare the bytes with an undisturbed run."""
    with tempfile.TemporaryDirectory(prefix="sc", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        sets = (out or folder / "sets").absolute()
        figures = play(folder, [recipe, *SMALL, *(overrides or [])], sets / "cluster", sets / "quiet")
        same = contents(sets / "cluster") == contents(sets / "quiet")
    text.show(text.table("The rehearsal", ["", "figure"], figures.items()))
    text.show(f"the bytes are {'equal' if same else 'NOT equal'} to those of an undisturbed run")
    if not same:
        sys.exit(1)


def play(folder: Path, recipe: Sequence[str], far: Path, near: Path) -> dict[str, float]:
    """Run the test: generate the dataset in `far` on the cluster, and in `near` without it."""
    for part in ("home", "ray"):
        (folder / part).mkdir()
    config = folder / "home" / "ray_bootstrap_config.yaml"
    with Head(folder / "ray", **variables(config.parent)) as head:
        config.write_text(yaml.safe_dump(configured(head)))
        options = f"--autoscaling-config={config}", f"--system-config={json.dumps(HEALTH)}", "--num-cpus=0"
        head.start(*options, "--object-store-memory=200000000")
        course = Course(head)
        course.log("the head is up, without workers")
        course.start = time.monotonic()
        with syncclip(
            folder / "job.log", "submit", "synth", *recipe, "--out", str(far), "--address", head.address
        ) as job:
            first = course.until(lambda: len(course.workers()) > 0, "the first worker is up", job)
            every = course.until(lambda: len(course.workers()) >= WORKERS, f"{WORKERS} workers are up", job)
            course.until(lambda: shards(far) >= MIDDLE, f"{MIDDLE} shards are committed", job)
            committed, lost = shards(far), min(course.workers())
            with suspended(head, course.workers() - {lost}):
                head.lose(lost)
                killed = course.log(f"a worker was killed, with {committed} shards committed")
                course.until(lambda: lost not in course.workers(), "the head detected the loss", job)
                replaced = course.until(lambda: len(course.workers()) >= WORKERS, "the worker was replaced", job)
            plan = read_plan(str(far))
            assert plan is not None, "shards are committed"
            total = len(plan.shards())
            done = course.until(lambda: shards(far) == total, f"all {total} shards are committed", job)
            with syncclip(folder / "quiet.log", "synth", *recipe, "synthesis.actors=1", "--out", str(near)) as quiet:
                gone = course.until(lambda: not course.workers(), "the last worker terminated")
                for command in (job, quiet):
                    if command.wait():
                        raise RuntimeError(f"a command failed: {command.args!r}")
    return {
        "seconds until the first worker was up": first,
        "seconds until all workers were up": every,
        "workers in total": len(course.seen),
        "workers lost": 1,
        "shards committed by then": committed,
        "seconds from the loss to the replacement": replaced - killed,
        "shards in the end": total,
        "seconds until the last shard": done,
        "seconds from the last shard until no worker was left": gone - done,
    }


class Course:
    """Log of events on the cluster."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.start = time.monotonic()
        self.seen: set[str] = set()
        """IDs of all workers that have joined."""

    def workers(self) -> set[str]:
        """Return the IDs of live workers."""
        live = {node for node, is_head in self.head.nodes().items() if not is_head}
        self.seen |= live
        return live

    def log(self, event: str) -> float:
        """Print an event, and return its time in seconds."""
        seconds = time.monotonic() - self.start
        print(f"{seconds:6.1f} s  {event}", flush=True)
        return seconds

    def until(self, condition: Callable[[], bool], event: str, job: subprocess.Popen[bytes] | None = None) -> float:
        """Wait for a condition and log the event.

        Raises:
            RuntimeError: the timeout expires, or the job ends first.
        """
        finished = waited(lambda: condition() or (job is not None and job.poll() is not None))
        if not finished or not condition():
            raise RuntimeError(f"this event did not occur: {event}")
        return self.log(event)


@contextlib.contextmanager
def suspended(head: Head, nodes: Iterable[str]) -> Iterator[None]:
    """Suspend the actors of these nodes, which could otherwise finish the job before the lost node is replaced."""
    actors: list[psutil.Process] = []
    try:
        for process in (process for node in nodes for process in head.processes(node)):
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("ray::MapWorker"):
                    process.suspend()
                    actors.append(process)
        yield
    finally:
        for actor in actors:
            with contextlib.suppress(psutil.Error):
                actor.resume()


def variables(home: Path) -> dict[str, str]:
    """Return the environment variables with which Ray's autoscaler starts nodes on this machine."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    return {
        "HOME": str(home),  # location of the cluster file
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser()),
        "PYTHONPATH": os.pathsep.join([str(CONFIG.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }


def configured(head: Head) -> dict[str, Any]:
    """Return the content of `rehearsal.yaml` for this head."""
    import ray
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    address = {"head_node_id": FAKE_HEAD_NODE_ID, "gcs_address": f"{ray.util.get_node_ip_address()}:{head.port}"}
    config["provider"] |= address
    return config


@contextlib.contextmanager
def syncclip(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a syncclip command in the background, and terminate it at the end of the block."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**bare, **VARIABLES}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "syncclip", *arguments], env=environment, stdout=output, stderr=output
        )
    try:
        yield process
    except RuntimeError:
        print(log.read_text(), file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait()


def shards(folder: Path) -> int:
    """Return the number of committed shards."""
    return len(list(folder.glob("*_stats.json")))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of the files that match `BYTES`, by file name."""
    return {path.name: path.read_bytes() for pattern in BYTES for path in folder.glob(pattern)}


if __name__ == "__main__":
    app()
