"""How long ten million images take to plan, and how much memory: `python -m benchmarks.planning --help`.

Each row is a new process, whose peak is the system's count, Python and the libraries included. Planned means: the plan
drafted and written into a folder, every shard's range, and prompt and first seed of every image. Markers: those of a
finished set are read from a local disk, as a resumed run does first.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from syncclip import storage
from syncclip.shards.markers import ShardStats, markers, shard_name, stats_name, table_name
from syncclip.synthesis.plan import PLAN_NAME, Plan, draft, write_plan
from syncclip.synthesis.settings import SynthesisSettings

RESULTS = Path(__file__).with_name("RESULTS.md")
CAPTIONS = 64
"""Sentences of each class, of some 80 characters."""
STRATEGIES = ("template", "mixture")


class Planned(NamedTuple):
    """What planning took, in seconds and bytes."""

    drafting: float
    shards: float
    prompts: float
    seeds: float
    peak: int
    """Resident bytes of the process, at most."""
    file: int
    """Bytes of plan.json."""
    images: int

    @property
    def seconds(self) -> float:
        """Of all."""
        return self.drafting + self.shards + self.prompts + self.seeds


def plan_of(strategy: str, classes: int, images: int) -> Plan:
    """A plan with the class template alone, or with combinations and a file's worth of captions beside it."""
    names = [f"class number {label}" for label in range(classes)]
    prompts: dict[str, Any] = {}
    if strategy == "mixture":
        words = [f"word {number}" for number in range(20)]
        place = "seen from very near in the soft light of an early morning, image"
        written = {name: [f"a {name} {place} {number}" for number in range(CAPTIONS)] for name in names}
        prompts["strategies"] = [
            {"name": "template", "weight": 2},
            {"name": "combinations", "sentence": "a {a} {} {b}", "lists": {"a": words, "b": words}},
            {"name": "captions", "sentences": written},
        ]
    settings = SynthesisSettings.model_validate({"images_per_class": images, "prompts": prompts})
    return draft(settings, dataset="many", classnames=names, template="a photo of a {}.")


def planned(strategy: str, classes: int, images: int) -> Planned:
    """Plan a set from its settings to the last seed; in a process of its own, for the peak."""
    with tempfile.TemporaryDirectory() as folder:
        drafting, plan = timed(lambda: write_plan(plan_of(strategy, classes, images), folder))
        file = Path(folder, PLAN_NAME).stat().st_size
    shards, ranges = timed(lambda: [plan.shard_range(shard) for shard in plan.shards()])
    prompts, texts = timed(lambda: sum(len(plan.prompts_of(one)) for one in ranges))
    seeds, numbers = timed(lambda: sum(len(plan.seeds_of(one)) for one in ranges))
    assert texts == numbers == plan.total
    return Planned(drafting, shards, prompts, seeds, peak_bytes(), file, plan.total)


def read(folder: str) -> tuple[float, int, int]:
    """(seconds, resident bytes at most, images counted) of reading all markers of a set."""
    seconds, images = timed(lambda: sum(stats.count for stats in markers(folder)))
    return seconds, peak_bytes(), images


def lay_markers(folder: Path, count: int, classes: int) -> None:
    """A set's markers, with empty tables and tars."""
    every = dict.fromkeys(range(classes), 1)
    for shard in range(count):
        stats = ShardStats(shard=shard, count=classes, bytes=0, sha256="0" * 64, table_sha256="0" * 64, per_class=every)
        storage.write_with_checksum(str(folder / stats_name(shard)), stats.model_dump_json(indent=1).encode())
        (folder / shard_name(shard)).touch()
        (folder / table_name(shard)).touch()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and the result."""
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def peak_bytes() -> int:
    """Resident bytes of this process since it began, at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def alone(work: Callable[..., Any], *arguments: object) -> Any:
    """A result from a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    classes: Annotated[int, typer.Option(min=1)] = 1000,
    images: Annotated[int, typer.Option(min=1, help="Images of each class.")] = 10_000,
    shards: Annotated[int, typer.Option(min=1, help="Markers to read, of one image of each class.")] = 10_000,
    out: Annotated[Path, typer.Option(help="The file that the tables are added to.")] = RESULTS,
) -> None:
    """Plan a large set, read the markers of one, and add the tables to the results."""
    lines = [
        f"## {date.today()}: planning {classes * images:,} images of {classes:,} classes",
        "",
        f"`python -m benchmarks.planning {' '.join(sys.argv[1:])}`".replace(" `", "`"),
        "",
        f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}.",
        "",
        "| prompts | draft and settle | shards | prompts of all | seeds of all | sum | peak MB | plan.json |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for strategy in STRATEGIES:
        found: Planned = alone(planned, strategy, classes, images)
        times = [found.drafting, found.shards, found.prompts, found.seeds]
        cells = [strategy, *(f"{one:.2f} s" for one in times), f"**{found.seconds:.1f} s**"]
        lines.append(f"| {' | '.join(cells)} | **{found.peak / 1e6:.0f}** | {found.file / 1e6:.2f} MB |")
    with tempfile.TemporaryDirectory() as folder:
        lay_markers(Path(folder), shards, classes)
        seconds, peak, counted = alone(read, folder)
    lines += ["", f"{shards:,} markers ({counted:,} images) read in {seconds:.1f} s, peak {peak / 1e6:.0f} MB."]
    print("\n".join(lines))
    with out.open("a") as file:
        file.write("\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    app()
