"""Driver memory and throughput of the pool alone over many shards: `python -m benchmarks.graph --shards 10000`.

Shards are empty: no generator, no files. Everything else is real: specs, pool, ledger, reports, status.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Annotated

import psutil
import typer

from syncclip.runtime.ray_session import ray_session
from syncclip.synthesis.status import SynthesisStatus
from syncclip.workers.pool import run_round
from syncclip.workers.report import Report
from syncclip.workers.settings import Pool

SAMPLES = 10


class Idle:
    """Generates nothing, at once."""

    def begin(self, shard: int) -> int:
        return shard

    def commit(self, computation: int) -> Report:
        now = time.time()
        return Report(computation, images=64, rejects='{"blank": 1}', started=now, ended=now, worker="idle")


def memory(shards: int, actors: int) -> list[tuple[int, float, float]]:
    """(shards done, seconds since the first one, resident MB of this process), `SAMPLES` times."""
    process, status = psutil.Process(), SynthesisStatus.begin(planned=64 * shards, images=0, most=actors)
    found: list[tuple[int, float, float]] = []
    begun = 0.0
    for passed, report in enumerate(run_round(range(shards), Idle, Pool(actors)), 1):
        begun = begun or time.perf_counter()
        status.count(report, 64)
        if passed % max(1, shards // SAMPLES) == 0:
            found.append((passed, time.perf_counter() - begun, process.memory_info().rss / 1e6))
    assert status.images == 64 * shards
    return found


def main(
    shards: Annotated[int, typer.Option(help="Number of shards.")] = 10_000,
    actors: Annotated[int, typer.Option(help="Actors of the pool.")] = 1,
) -> None:
    """Show the driver's memory and throughput as shards are done."""
    with ray_session(cpus=actors):
        found = memory(shards, actors)
    print("| shards | seconds | driver MB |\n|---|---|---|")
    for passed, seconds, size in found:
        print(f"| {passed:,} | {seconds:.1f} | {size:.0f} |")
    (first, _, low), (last, _, high) = found[0], found[-1]
    steps = [b[2] - a[2] for a, b in pairwise(found)]
    print(f"\n{(high - low) / (last - first) * 1000:.2f} kB per shard; largest step {max(steps):.1f} MB")


if __name__ == "__main__":
    typer.run(main)
