"""A rehearsal of a cluster that grows on demand, on this machine: no ssh, no account, no container.

    make rehearsal                                   # or: python -m cluster.rehearsal RECIPE [KEY=VALUE]..

A head that generates nothing; workers that come when a job needs them (`rehearsal.yaml`); one is killed midway and
replaced, while the other stands still; all go when there is nothing left to do. The set must equal, byte for byte, the
one generated here without a cluster.
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
"""As many as `rehearsal.yaml` may start, each with the CPU of an actor."""

SMALL = ("synthesis.images_per_class=8", "synthesis.shard_size=44", f"synthesis.actors={WORKERS}")
"""Placed before the given values: a set that is generated within a minute."""

MIDDLE = 2
"""Shards committed when a worker is killed."""

HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 5}
"""By default the head takes half a minute to notice that a worker is lost."""

BYTES = ("*.tar", "*.parquet", "plan.json")
"""Files of a set that are the same to the last bit, however it was generated; the others hold times."""

app = typer.Typer(add_completion=False)


@app.command()
def rehearse(
    recipe: Annotated[str, typer.Argument(help="As for `syncclip synth`.")] = "travel",
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]..")] = None,
    out: Annotated[Path | None, typer.Option(help="Where both sets are kept; by default they aren't.")] = None,
) -> None:
    """Generate a set on workers that come on demand, losing one; compare it with one generated undisturbed."""
    with tempfile.TemporaryDirectory(prefix="sc", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        sets = (out or folder / "sets").absolute()
        figures = play(folder, [recipe, *SMALL, *(overrides or [])], sets / "cluster", sets / "quiet")
        same = contents(sets / "cluster") == contents(sets / "quiet")
    text.show(text.table("The rehearsal", ["", "figure"], figures.items()))
    text.show(f"the bytes are {'those' if same else 'NOT those'} of an undisturbed run")
    if not same:
        sys.exit(1)


def play(folder: Path, recipe: Sequence[str], far: Path, near: Path) -> dict[str, float]:
    """The whole rehearsal; the set is generated into `far` by the cluster, and into `near` without it."""
    for part in ("home", "ray"):
        (folder / part).mkdir()
    config = folder / "home" / "ray_bootstrap_config.yaml"
    with Head(folder / "ray", **variables(config.parent)) as head:
        config.write_text(yaml.safe_dump(configured(head)))
        options = f"--autoscaling-config={config}", f"--system-config={json.dumps(HEALTH)}", "--num-cpus=0"
        head.start(*options, "--object-store-memory=200000000")
        course = Course(head)
        course.tell("the head is up, alone")
        course.began = time.monotonic()
        with syncclip(
            folder / "job.log", "submit", "synth", *recipe, "--out", str(far), "--address", head.address
        ) as job:
            first = course.until(lambda: len(course.workers()) > 0, "a worker came, requested by the job", job)
            every = course.until(lambda: len(course.workers()) >= WORKERS, f"{WORKERS} workers are up", job)
            course.until(lambda: shards(far) >= MIDDLE, f"{MIDDLE} shards are committed", job)
            there, lost = shards(far), min(course.workers())
            with suspended(head, course.workers() - {lost}):
                head.lose(lost)
                pulled = course.tell(f"a worker is lost, with {there} shards committed")
                course.until(lambda: lost not in course.workers(), "the head noticed", job)
                again = course.until(lambda: len(course.workers()) >= WORKERS, "it was replaced", job)
            plan = read_plan(str(far))
            assert plan is not None, "shards are committed"
            total = len(plan.shards())
            done = course.until(lambda: shards(far) == total, f"all {total} shards are committed", job)
            with syncclip(folder / "quiet.log", "synth", *recipe, "synthesis.actors=1", "--out", str(near)) as quiet:
                gone = course.until(lambda: not course.workers(), "the last worker left; the head is alone again")
                for command in (job, quiet):
                    if command.wait():
                        raise RuntimeError(f"a command failed: {command.args!r}")
    return {
        "seconds until the first worker came": first,
        "seconds until all workers came": every,
        "workers in total": len(course.seen),
        "workers lost": 1,
        "shards committed by then": there,
        "seconds from then until its replacement": again - pulled,
        "shards in the end": total,
        "seconds until the last shard": done,
        "seconds from then until no worker was left": gone - done,
    }


class Course:
    """Reports what happens on the cluster, as it happens."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.began = time.monotonic()
        self.seen: set[str] = set()
        """Every worker that ever joined."""

    def workers(self) -> set[str]:
        """Ids of the workers that are up."""
        now = {node for node, is_head in self.head.nodes().items() if not is_head}
        self.seen |= now
        return now

    def tell(self, what: str) -> float:
        """Print what happened; returns when, in seconds."""
        seconds = time.monotonic() - self.began
        print(f"{seconds:6.1f} s  {what}", flush=True)
        return seconds

    def until(self, there: Callable[[], bool], what: str, job: subprocess.Popen[bytes] | None = None) -> float:
        """Wait for something, and report it.

        Raises:
            RuntimeError: it didn't happen, or the job ended before.
        """
        happened = waited(lambda: there() or (job is not None and job.poll() is not None))
        if not happened or not there():
            raise RuntimeError(f"waited in vain for this: {what}")
        return self.tell(what)


@contextlib.contextmanager
def suspended(head: Head, nodes: Iterable[str]) -> Iterator[None]:
    """The actors of these nodes stand still: a quick one would finish the job alone, and nobody would be replaced."""
    actors: list[psutil.Process] = []
    try:
        for process in (one for node in nodes for one in head.processes(node)):
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
    """The environment in which Ray's autoscaler starts nodes on this machine, and a job knows what it may expect."""
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    return {
        "HOME": str(home),  # `ray up` leaves the cluster's file there
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser()),
        "PYTHONPATH": os.pathsep.join([str(CONFIG.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }


def configured(head: Head) -> dict[str, Any]:
    """`rehearsal.yaml` for this head."""
    import ray
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    where = {"head_node_id": FAKE_HEAD_NODE_ID, "gcs_address": f"{ray.util.get_node_ip_address()}:{head.port}"}
    config["provider"] |= where
    return config


@contextlib.contextmanager
def syncclip(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a syncclip command in the background; it has ended when the block ends."""
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
    """Committed ones."""
    return len(list(folder.glob("*_stats.json")))


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of a set's files."""
    return {path.name: path.read_bytes() for pattern in BYTES for path in folder.glob(pattern)}


if __name__ == "__main__":
    app()
