"""Startup cost of a training run and of a study on ten million images: `python -m benchmarks.beginning --help`.

The toy benchmark's dataset has the plan, markers and index that `synth` would write, but no pixels: tar files and
images have one byte, and tables are empty. Each row is measured in a new process. After a warm-up on a dataset of one
shard, the process resolves the run, loads CLIP, opens the dataset, builds the stream and samples the images of the
first step, or it prepares the runs of a study. For S3, a proxy delays every response of a local server (moto).
"""

from __future__ import annotations

import logging
import os
import platform
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest import mock

import numpy as np
import typer

from benchmarks.measuring import in_new_process
from syncclip import Recipe, plan, storage
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.runs.build import build_parts, build_stream
from syncclip.runs.resolve import resolve_run
from syncclip.shards.index import SampleTable, write_index
from syncclip.shards.markers import Shard, ShardStats, shard_name, stats_name, table_name
from syncclip.studies.cells import prepare
from syncclip.studies.grid import cells
from syncclip.synthesis.plan import Plan, write_plan
from tests.object_store import faulty_bucket

BYTES = 20_000
"""Distance in bytes between two images in a tar file, according to the index."""
CELLS = 36
DATASET = "icons/devices"
READS = ("files._entries", "files.read_bytes", "files.read_many", "fetch")
"""Functions of `storage` that read files and list folders."""


class StartUp(NamedTuple):
    """Cost of starting up.

    Attributes:
        cpu, seconds: CPU time and wall-clock time in seconds.
        private: increase in the private memory of the process in bytes.
        reads: number of files read and folders listed.
    """

    cpu: float
    seconds: float
    private: int
    reads: int


def write_dataset(content: Plan, url: str) -> None:
    """Write plan, markers and index, with empty tables and one-byte tar files."""
    write_plan(content, url)
    numbers = content.shards()
    ranges = [content.shard_range(shard) for shard in numbers]
    shards = [Shard(shard, len(rows), 1, f"{shard:064x}", f"{shard:064x}") for shard, rows in enumerate(ranges)]
    with ThreadPoolExecutor(16) as writers:
        for shard, rows in zip(shards, ranges, strict=True):
            labels = np.bincount(np.arange(rows.start, rows.stop) % content.classes)
            stats = ShardStats(
                shard=shard.shard, count=shard.images, bytes=1, per_class=dict(enumerate(labels.tolist())),
                sha256=shard.sha256, table_sha256=shard.table_sha256,
            )  # fmt: skip
            writers.submit(_write_shard, url, stats, content.owner)
    index = np.arange(content.total)
    number = np.repeat(numbers, [len(rows) for rows in ranges])
    row = index - np.repeat([rows.start for rows in ranges], [len(rows) for rows in ranges])
    columns = [index, index % content.classes, number, row, row * (BYTES // 512 + 4) * 512, np.ones_like(index)]
    write_index(url, shards, SampleTable.of(columns), content.owner)


def _write_shard(url: str, stats: ShardStats, owner: str) -> None:
    storage.write_bytes(storage.join(url, shard_name(stats.shard)), b"?")
    storage.write_bytes(storage.join(url, table_name(stats.shard)), b"")
    text = stats.model_dump_json(indent=1).encode()
    storage.write_with_checksum(storage.join(url, stats_name(stats.shard)), text, owner=owner)


def recipe_of(images_per_class: int, shard_size: int, options: dict[str, Any]) -> Recipe:
    """Return the recipe of a training run on a dataset of this size, with a shuffle window of four shards."""
    overrides = [f"dataset.name={DATASET}", "training.method=syncclip", "training.shuffle_window=4"]
    overrides += [f"synthesis.images_per_class={images_per_class}", f"synthesis.shard_size={shard_size}"]
    return Recipe.load("icons", overrides).with_values({"storage.options": options})


def measure(recipe: Recipe, url: str, small: tuple[Recipe, str], study: bool) -> StartUp:
    """Measure the startup of a training run or a study, up to the first image read.

    Args:
        small: recipe and URL of a small dataset for the warm-up.
    """
    start_up = _start_study if study else _start_training
    kept = [start_up(*small)]
    with ExitStack() as stack:
        calls = [stack.enter_context(_counted(name)) for name in READS]
        private, cpu, start = _private_bytes(), time.process_time(), time.perf_counter()
        kept.append(start_up(recipe, url))
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - start
        return StartUp(cpu, seconds, _private_bytes() - private, sum(map(_files, calls)))


def _start_training(recipe: Recipe, url: str) -> Any:
    resolved, _ = resolve_run(recipe.with_values({"training.synthetic": url}), f"{url}-run")
    parts = build_parts(resolved)
    stream = build_stream(resolved, parts)
    assert stream is not None
    stream.order.ids(0, 0)
    return parts, stream


def _start_study(recipe: Recipe, url: str) -> Any:
    largest = recipe.synthesis.images_per_class
    study = {
        "configurations": [{"method": "syncclip"}],
        "images_per_class": sorted({max(1, largest >> shift) for shift in range(CELLS)}),
        "seeds": list(range(1, CELLS + 1)),
    }
    recipe = recipe.with_values({"study": {**recipe.study.model_dump(mode="json"), **study}})
    return prepare(recipe, cells(recipe.study)[:CELLS], f"{url}-study", url)


def _counted(name: str) -> Any:
    """Patch a function of `storage` to record its calls."""
    return mock.patch(f"syncclip.storage.{name}", side_effect=attrgetter(name)(storage))


def _files(calls: mock.Mock) -> int:
    """Return the number of files and folders in the recorded calls."""
    return sum(1 if isinstance(call.args[0], str) else len(call.args[0]) for call in calls.call_args_list)


def _private_bytes() -> int:
    """Return how many bytes of this process's memory are not mapped from a file."""
    (kilobytes,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


def main(
    images: Annotated[int, typer.Option(min=100, help="Number of images.")] = 10_000_000,
    shards: Annotated[int, typer.Option(min=1, help="Number of shards.")] = 10_000,
    latency: Annotated[float, typer.Option(min=0, help="Delay of each S3 response in seconds.")] = 0.05,
) -> None:
    """Measure the startup of a training run and a study on a large dataset, on disk and on S3, and print the table."""
    classes = len(load_dataset(DatasetSettings(name=DATASET)).classnames)
    per_class = -(-images // classes)
    size = -(-per_class // shards) * classes
    total = per_class * classes
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the S3 server logs each request
    print(f"{total:,} images in {-(-total // size):,} shards; {platform.machine()}, {os.cpu_count()} cores; ", end="")
    print(f"Python {platform.python_version()}; S3 responses delayed by {latency * 1e3:.0f} ms\n")
    print("| storage | start of | CPU s | seconds | private bytes per image | files read and folders listed |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, faulty_bucket() as (bucket, proxy):
        s3 = storage.urls.configured()
        for name, root, options in (("disk", folder, {}), ("S3", bucket, s3)):
            small, large = (recipe_of(count, size, options) for count in (size // classes, per_class))
            proxy.latency = 0.0
            write_dataset(plan(small), storage.join(root, "small"))
            write_dataset(plan(large), storage.join(root, "large"))
            proxy.latency = latency
            for study in (False, True):
                arguments = storage.join(root, "large"), (small, storage.join(root, "small")), study
                cost: StartUp = in_new_process(measure, large, *arguments)
                title = f"a study of {CELLS} training runs" if study else "a training run"
                figures = f"{cost.cpu:.2f} | {cost.seconds:.1f} | {cost.private / total:.1f} | {cost.reads:,}"
                print(f"| {name} | {title} | {figures} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
