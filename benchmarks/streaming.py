"""Streaming from S3 with and without failing requests: `python -m benchmarks.streaming --help`.

A proxy delays every response of a local server (moto) and, in faulty rounds, fails a fraction of the requests. Rounds
with and without faults alternate; each streams the same batches with an empty cache. A separate process decodes the
images, because the server and the proxy run in the main process.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from typing import Annotated

import torch
import typer

from benchmarks.loader import jpeg, to_tensor
from syncclip import storage
from syncclip.shards.cache import ShardCache
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from syncclip.stream.loader import batches
from syncclip.stream.mixed import MixedStream
from syncclip.stream.sources import MixedSource
from tests.object_store import faulty_bucket

CLASSES, BATCH = 10, 32


def write(url: str, images: int, per_shard: int, pixels: int) -> None:
    """Write a dataset of distinct images."""
    for shard, first in enumerate(range(0, images, per_shard)):
        indices = range(first, min(images, first + per_shard))
        write_shard(url, shard, [Sample(i, i % CLASSES, jpeg(i, pixels), "a photo") for i in indices])


def streamed(url: str, window: int, steps: int) -> tuple[float, int]:
    """Return the images/s over `steps` batches, after a warm-up of one window, and the sum of all pixels."""
    with tempfile.TemporaryDirectory() as folder:
        images = ShardSet(url, cache=ShardCache(folder=folder, check=True))
        stream = MixedStream(
            [], [MixedSource(images)], transform=to_tensor, batch=BATCH, seed=1, base=range(CLASSES), data="synthetic",
            window=window, cache_images=0,
        )  # fmt: skip
        first = window * max(1, len(images) // len(images.shards) // BATCH)
        start, seen, total = time.perf_counter(), 0, 0
        for step, (_, _, batch) in enumerate(batches(stream, 10**6, processes=1, threads=4)):
            total += int(batch.images.sum(dtype=torch.int64))
            if step == first:
                start = time.perf_counter()
            elif step > first:
                seen += len(batch.images)
            if step == first + steps:
                break
        return seen / (time.perf_counter() - start), total


def main(
    images: Annotated[int, typer.Option(help="Number of images.")] = 8000,
    per_shard: Annotated[int, typer.Option(help="Images per shard.")] = 500,
    pixels: Annotated[int, typer.Option(help="Image side length in pixels.")] = 224,
    window: Annotated[int, typer.Option(help="Number of shards in the shuffle window.")] = 4,
    steps: Annotated[int, typer.Option(help="Batches per round.")] = 300,
    latency: Annotated[float, typer.Option(help="Delay of each response in seconds.")] = 0.05,
    failing: Annotated[float, typer.Option(help="Fraction of requests that fail in faulty rounds.")] = 0.05,
    repetitions: Annotated[int, typer.Option(help="Rounds of each kind.")] = 7,
) -> None:
    """Print images per second with and without faults, and their ratio."""
    torch.set_num_threads(1)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    sides: dict[str, list[float]] = {"quiet": [], "faulty": []}
    with faulty_bucket() as (bucket, proxy):
        url = storage.join(bucket, "set")
        write(url, images, per_shard, pixels)
        proxy.latency = latency
        sums = set()
        for turn in range(repetitions + 1):
            for name, rates in sides.items():
                proxy.spoil_some(failing if name == "faulty" else 0.0, seed=turn)
                rate, total = streamed(url, window, steps)
                sums.add(total)
                rates += [rate] if turn else []  # the first round is a warm-up
                print(f"round {turn}: {name} {rate:,.0f} images/s", file=sys.stderr)
        failed = sum(proxy.spoilt.values())
    assert len(sums) == 1, "faults changed the stream"
    shares = [faulty / quiet for faulty, quiet in zip(sides["faulty"], sides["quiet"], strict=True)]
    print("| latency | failing | requests failed | quiet | faulty | faulty / quiet |\n|---|---|---|---|---|---|")
    quiet, faulty = (statistics.median(rates) for rates in sides.values())
    share = statistics.median(shares)
    print(f"| {latency * 1e3:.0f} ms | {failing:.0%} | {failed} | {quiet:,.0f} | {faulty:,.0f} | **{share:.2f}x** |")


if __name__ == "__main__":
    typer.run(main)
