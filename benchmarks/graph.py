"""Driver memory and throughput of the worker pool for many shards: `python -m benchmarks.graph --shards 10000`.

Shards are empty: no images are generated and no files are written. The specs, the pool, the queue, the reports
and the status are real.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Annotated

import psutil
import typer

from syncclip.runtime.ray_session import ray_session
from syncclip.synthesis.status import SynthesisStatus
from syncclip.workers.pool import run_pool
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool

SAMPLES = 10


class Idle:
    """Job whose shards are empty."""

    def begin(self, shard: int) -> int:
        return shard

    def commit(self, computation: int) -> Report:
        now = time.time()
        return Report(computation, images=64, rejects='{"blank": 1}', started=now, ended=now, worker="idle")


def memory(shards: int, actors: int) -> list[tuple[int, float, float]]:
    """Return `SAMPLES` tuples (shards done, seconds since the first shard, resident memory of this process in MB)."""
    process, status = psutil.Process(), SynthesisStatus.begin(planned=64 * shards, images=0, most=actors)
    samples: list[tuple[int, float, float]] = []
    start = 0.0
    for done, report in enumerate(run_pool(range(shards), Idle, Pool(actors)), 1):
        start = start or time.perf_counter()
        status.count(report, 64)
        if done % max(1, shards // SAMPLES) == 0:
            samples.append((done, time.perf_counter() - start, process.memory_info().rss / 1e6))
    assert status.images == 64 * shards
    return samples


def main(
    shards: Annotated[int, typer.Option(help="Number of shards.")] = 10_000,
    actors: Annotated[int, typer.Option(help="Number of actors.")] = 1,
) -> None:
    """Print the driver's memory and the throughput."""
    with ray_session(cpus=actors):
        samples = memory(shards, actors)
    print("| shards | seconds | driver MB |\n|---|---|---|")
    for done, seconds, size in samples:
        print(f"| {done:,} | {seconds:.1f} | {size:.0f} |")
    (first, _, low), (last, _, high) = samples[0], samples[-1]
    steps = [b[2] - a[2] for a, b in pairwise(samples)]
    print(f"\n{(high - low) / (last - first) * 1000:.2f} kB per shard; largest step {max(steps):.1f} MB")


if __name__ == "__main__":
    typer.run(main)
