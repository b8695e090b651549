"""Measure time and memory for planning ten million images: `python -m benchmarks.planning --help`.

Each row is measured in a new process; its peak memory includes Python and the libraries. Planning includes drafting the
plan, writing it to a folder, and computing the range of every shard. Actors compute the prompt and seed of each image
of their shards, which is measured for 100 shards. Then, as in a resumed run, the markers of a finished dataset are read
from a local disk.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks.measuring import in_new_process
from syncclip import storage
from syncclip.shards.markers import ShardStats, markers, shard_name, stats_name, table_name
from syncclip.synthesis.plan import PLAN_NAME, Plan, draft, write_plan
from syncclip.synthesis.settings import SynthesisSettings

CAPTIONS = 64
"""Number of captions per class, each about 80 characters long."""
STRATEGIES = ("template", "mixture")


class Planned(NamedTuple):
    """Cost of planning.

    Attributes:
        seconds: time for the draft and the shard ranges.
        per_image: seconds per image for its prompt and seed.
        peak: peak resident bytes of the process.
        file: size of plan.json in bytes.
    """

    seconds: tuple[float, float]
    per_image: float
    peak: int
    file: int


def plan_of(strategy: str, classes: int, images: int) -> Plan:
    """Return a plan with only the class template, or with a mixture of template, combinations and captions."""
    names = [f"class number {label}" for label in range(classes)]
    prompts: dict[str, Any] = {}
    if strategy == "mixture":
        words = [f"word {number}" for number in range(20)]
        scene = "seen from very near in the soft light of an early morning, image"
        captions = {name: [f"a {name} {scene} {number}" for number in range(CAPTIONS)] for name in names}
        prompts["strategies"] = [
            {"name": "template", "weight": 2},
            {"name": "combinations", "sentence": "a {a} {} {b}", "lists": {"a": words, "b": words}},
            {"name": "captions", "sentences": captions},
        ]
    settings = SynthesisSettings.model_validate({"images_per_class": images, "prompts": prompts})
    return draft(settings, dataset="many", classnames=names, template="a photo of a {}.")


def planned(strategy: str, classes: int, images: int) -> Planned:
    """Plan a dataset in this process."""
    with tempfile.TemporaryDirectory() as folder:
        drafting, plan = timed(lambda: write_plan(plan_of(strategy, classes, images), folder))
        file = Path(folder, PLAN_NAME).stat().st_size
    shards, ranges = timed(lambda: [plan.shard_range(shard) for shard in plan.shards()])
    sample = [index for rows in ranges[:: max(1, len(ranges) // 100)] for index in rows]
    entries, _ = timed(lambda: [plan.entry(index) for index in sample])
    return Planned((drafting, shards), entries / len(sample), peak_bytes(), file)


def read(folder: str) -> tuple[float, int, int]:
    """Read all markers of a dataset; return (seconds of CPU time, peak resident bytes, number of images)."""
    seconds, images = timed(lambda: sum(stats.count for stats in markers(folder)))
    return seconds, peak_bytes(), images


def write_markers(folder: Path, count: int, classes: int) -> None:
    """Write markers of shards with one image per class, with empty tables and tar files."""
    per_class = dict.fromkeys(range(classes), 1)
    for shard in range(count):
        stats = ShardStats(
            shard=shard, count=classes, bytes=0, sha256="0" * 64, table_sha256="0" * 64, per_class=per_class
        )
        storage.write_with_checksum(str(folder / stats_name(shard)), stats.model_dump_json(indent=1).encode())
        (folder / shard_name(shard)).touch()
        (folder / table_name(shard)).touch()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Call a function; return the seconds of CPU time, which other processes don't affect, and the result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def peak_bytes() -> int:
    """Return the peak resident bytes of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 1000,
    images: Annotated[int, typer.Option(min=1, help="Images per class.")] = 10_000,
    shards: Annotated[int, typer.Option(min=1, help="Number of markers to read.")] = 10_000,
) -> None:
    """Plan a large dataset, read markers, and print the tables."""
    print(f"{classes * images:,} images of {classes:,} classes; {platform.machine()}, {os.cpu_count()} cores; ", end="")
    print(f"Python {platform.python_version()}\n")
    print("| prompts | draft | shards | prompt and seed per image | peak MB | plan.json |\n" + "|---" * 6 + "|")
    for strategy in STRATEGIES:
        cost: Planned = in_new_process(planned, strategy, classes, images)
        times = [*(f"{seconds:.2f} s" for seconds in cost.seconds), f"{cost.per_image * 1e6:.0f} µs"]
        print(f"| {strategy} | {' | '.join(times)} | **{cost.peak / 1e6:.0f}** | {cost.file / 1e6:.2f} MB |")
    with tempfile.TemporaryDirectory() as folder:
        write_markers(Path(folder), shards, classes)
        seconds, peak, counted = in_new_process(read, folder)
    print(f"\n{shards:,} markers ({counted:,} images) read in {seconds:.1f} s of CPU time, peak {peak / 1e6:.0f} MB.")


if __name__ == "__main__":
    typer.run(main)
