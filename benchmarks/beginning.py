"""How a training on ten million images begins: `python -m benchmarks.beginning --help`.

A set of the embedded world is laid down with its plan, markers and index as `synth` would write them, but no pixels:
its tars and images are of one byte, its tables empty. Each row is a new process that has imported what it needs and
built the same run on a set of one shard; then it resolves the run, loads CLIP, opens the set, makes the stream and
chooses the first step's images; or it prepares the cells of a study. On S3 a local server (moto) stands behind a proxy
that delays every response.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date
from functools import partial
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest import mock

import numpy as np
import typer

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

RESULTS = Path(__file__).with_name("RESULTS.md")
BYTES = 20_000
"""From an image to the next, as far as the index tells."""
CELLS = 36
DATASET = "icons/devices"
COUNTED = ("files._entries", "files.read_bytes", "files.read_many", "fetch")
"""What reads and lists."""


class Begun(NamedTuple):
    """What a beginning took."""

    cpu: float
    """Seconds of this process."""
    seconds: float
    private: int
    """Bytes of its own that the process holds more than before."""
    reads: int


def lay_down(asked: Plan, url: str) -> None:
    """Plan, markers and index of a set, tables that are empty, and tars of a byte."""
    write_plan(asked, url)
    numbers = asked.shards()
    ranges = [asked.shard_range(shard) for shard in numbers]
    shards = [Shard(shard, len(rows), 1, f"{shard:064x}", f"{shard:064x}") for shard, rows in enumerate(ranges)]
    put = partial(_put, url)
    with ThreadPoolExecutor(16) as writers:
        for shard, rows in zip(shards, ranges, strict=True):
            labels = np.bincount(np.arange(rows.start, rows.stop) % asked.classes)
            per_class = dict(enumerate(labels.tolist()))
            told = {"shard": shard.shard, "count": shard.images, "bytes": 1, "per_class": per_class}
            stats = ShardStats(**told, sha256=shard.sha256, table_sha256=shard.table_sha256)
            writers.submit(put, stats)
    index = np.arange(asked.total)
    first = np.repeat([rows.start for rows in ranges], [len(rows) for rows in ranges])
    number, place = np.repeat(numbers, [len(rows) for rows in ranges]), index - first
    columns = [index, index % asked.classes, number, place, place * (BYTES // 512 + 4) * 512, np.ones_like(index)]
    write_index(url, shards, SampleTable.of(columns))


def _put(url: str, stats: ShardStats) -> None:
    storage.write_bytes(storage.join(url, shard_name(stats.shard)), b"?")
    storage.write_bytes(storage.join(url, table_name(stats.shard)), b"")
    text = stats.model_dump_json(indent=1).encode()
    storage.write_with_checksum(storage.join(url, stats_name(stats.shard)), text)


def recipe_of(amount: int, shard_size: int, options: dict[str, Any]) -> Recipe:
    """A training of the embedded world on a set of this size, from a window of four shards."""
    overrides = [f"dataset.name={DATASET}", "training.method=syncclip", "training.shuffle_window=4"]
    overrides += [f"synthesis.images_per_class={amount}", f"synthesis.shard_size={shard_size}"]
    return Recipe.load("icons", overrides).with_values({"storage.options": options})


def begin(recipe: Recipe, url: str, small: tuple[Recipe, str], study: bool) -> Begun:
    """Do what a training does before its first image is read, or what a study does before its first cell.

    Args:
        small: the same of a small set, done before: what a library keeps is no part of this.
    """
    work = _prepared if study else _trained
    kept = [work(*small)]
    with ExitStack() as counting:
        calls = [counting.enter_context(_counted(place)) for place in COUNTED]
        private, cpu, begun = _private(), time.process_time(), time.perf_counter()
        kept.append(work(recipe, url))
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - begun
        return Begun(cpu, seconds, _private() - private, sum(_files(one) for one in calls))


def _trained(recipe: Recipe, url: str) -> Any:
    resolved, _ = resolve_run(recipe.with_values({"training.synthetic": url}), f"{url}-run")
    parts = build_parts(resolved)
    stream = build_stream(resolved, parts)
    assert stream is not None
    stream.ids(0, 0)
    return parts, stream


def _prepared(recipe: Recipe, url: str) -> Any:
    amount = recipe.synthesis.images_per_class
    amounts = sorted({max(1, amount >> shift) for shift in range(CELLS)})
    configurations = [{"method": "syncclip"}]
    study = {"configurations": configurations, "images_per_class": amounts, "seeds": list(range(1, CELLS + 1))}
    recipe = recipe.with_values({"study": {**recipe.study.model_dump(mode="json"), **study}})
    return prepare(recipe, cells(recipe.study)[:CELLS], f"{url}-study", url)


def _counted(place: str) -> Any:
    """A function of storage that remembers its calls."""
    return mock.patch(f"syncclip.storage.{place}", side_effect=attrgetter(place)(storage))


def _files(calls: mock.Mock) -> int:
    """Files that were read, and folders that were listed."""
    asked = [call.args[0] for call in calls.call_args_list]
    return sum(1 if isinstance(one, str) else len(one) for one in asked)


def _private() -> int:
    """Bytes of this process that no file holds."""
    (kilobytes,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024


def alone(work: Any, *arguments: object) -> Any:
    """A result from a new process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    images: Annotated[int, typer.Option(min=100, help="Of the set.")] = 10_000_000,
    shards: Annotated[int, typer.Option(min=1, help="Of the set.")] = 10_000,
    latency: Annotated[float, typer.Option(min=0, help="Seconds by which S3 answers later.")] = 0.05,
    out: Annotated[Path, typer.Option(help="The file that the table is added to.")] = RESULTS,
) -> None:
    """Begin a training and a study on a large set, on a disk and on S3, and add the table to the results."""
    classes = len(load_dataset(DatasetSettings(name=DATASET)).classnames)
    amount = -(-images // classes)
    size = -(-amount // shards) * classes
    rows = []
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the S3 server's line for each request
    with tempfile.TemporaryDirectory() as folder, faulty_bucket() as (bucket, proxy):
        s3 = storage.urls.configured()
        for place, root, options in (("disk", folder, {}), ("S3", bucket, s3)):
            small, large = (recipe_of(one, size, options) for one in (size // classes, amount))
            proxy.latency = 0.0
            lay_down(plan(small), storage.join(root, "small"))
            lay_down(plan(large), storage.join(root, "large"))
            proxy.latency = latency
            for study in (False, True):
                names = storage.join(root, "large"), (small, storage.join(root, "small")), study
                rows.append((place, study, alone(begin, large, *names)))
    total = amount * classes
    lines = [
        f"## {date.today()}: a training and a study of {total:,} images in {-(-total // size):,} shards begin",
        "",
        f"`python -m benchmarks.beginning {' '.join(sys.argv[1:])}`".replace(" `", "`"),
        "",
        f"{platform.machine()}, {os.cpu_count()} cores; Python {platform.python_version()}; S3 answers "
        f"{latency * 1e3:.0f} ms late.",
        "",
        "| where | what begins | CPU s | seconds | private bytes an image | files read and folders listed |",
        "|---|---|---|---|---|---|",
    ]
    for place, study, found in rows:
        what = f"a study of {CELLS} cells" if study else "a training"
        each = f"{found.cpu:.2f} | {found.seconds:.1f} | {found.private / total:.1f} | {found.reads:,}"
        lines.append(f"| {place} | {what} | {each} |")
    print("\n".join(lines))
    with out.open("a") as file:
        file.write("\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    app()
