"""Streaming from S3 when requests fail, compared with a quiet server: `python -m benchmarks.streaming --help`.

A local server (moto) behind a proxy that delays every response, and in faulty rounds fails a share of the requests.
Quiet and faulty rounds alternate; each streams the same batches into an empty cache. Decoding happens in a process of
its own, as server and proxy run in this one.
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
    """A set of that many images, each its own."""
    for shard, first in enumerate(range(0, images, per_shard)):
        indices = range(first, min(images, first + per_shard))
        write_shard(url, shard, [Sample(i, i % CLASSES, jpeg(i, pixels), "a photo") for i in indices])


def streamed(url: str, window: int, steps: int) -> tuple[float, int]:
    """Images per second over so many batches, after those of one window; and a checksum of all pixels."""
    with tempfile.TemporaryDirectory() as folder:
        images = ShardSet(url, cache=ShardCache(folder=folder, check=True))
        stream = MixedStream(
            [], [MixedSource(images)], transform=to_tensor, batch=BATCH, seed=1, base=range(CLASSES), data="synthetic",
            window=window, cache_images=0,
        )  # fmt: skip
        first = window * max(1, len(images) // len(images.shards) // BATCH)
        begun, seen, total = time.perf_counter(), 0, 0
        for place, (_, _, batch) in enumerate(batches(stream, 10**6, processes=1, threads=4)):
            total += int(batch.images.sum(dtype=torch.int64))
            if place == first:
                begun = time.perf_counter()
            elif place > first:
                seen += len(batch.images)
            if place == first + steps:
                break
        return seen / (time.perf_counter() - begun), total


def main(
    images: Annotated[int, typer.Option(help="Images of the set.")] = 8000,
    per_shard: Annotated[int, typer.Option(help="Images of a shard.")] = 500,
    pixels: Annotated[int, typer.Option(help="Side of an image.")] = 224,
    window: Annotated[int, typer.Option(help="Shards in use at once.")] = 4,
    steps: Annotated[int, typer.Option(help="Batches of a round.")] = 300,
    latency: Annotated[float, typer.Option(help="Seconds that every response is delayed.")] = 0.05,
    failing: Annotated[float, typer.Option(help="Share of the requests that fail in faulty rounds.")] = 0.05,
    repetitions: Annotated[int, typer.Option(help="Rounds of each side.")] = 7,
) -> None:
    """Print images per second of quiet and faulty rounds, and their ratio."""
    torch.set_num_threads(1)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    sides: dict[str, list[float]] = {"quiet": [], "faulty": []}
    with faulty_bucket() as (bucket, proxy):
        url = storage.join(bucket, "set")
        write(url, images, per_shard, pixels)
        proxy.latency = latency
        pixels_seen = set()
        for turn in range(repetitions + 1):
            for name, found in sides.items():
                proxy.spoil_some(failing if name == "faulty" else 0.0, seed=turn)
                speed, total = streamed(url, window, steps)
                pixels_seen.add(total)
                found += [speed] if turn else []
                print(f"round {turn}: {name} {speed:,.0f} images/s", file=sys.stderr)
        failed = sum(proxy.spoilt.values())
    assert len(pixels_seen) == 1, "faults changed what was streamed"
    shares = [faulty / quiet for faulty, quiet in zip(sides["faulty"], sides["quiet"], strict=True)]
    print("| latency | failing | requests failed | quiet | faulty | faulty / quiet |\n|---|---|---|---|---|---|")
    quiet, faulty = (statistics.median(found) for found in sides.values())
    share = statistics.median(shares)
    print(f"| {latency * 1e3:.0f} ms | {failing:.0%} | {failed} | {quiet:,.0f} | {faulty:,.0f} | **{share:.2f}x** |")


if __name__ == "__main__":
    typer.run(main)
