"""Chaos test: generate a dataset on S3 while processes are killed and requests fail.

    make chaos                                       # or: python -m benchmarks.chaos --shards 400 --every 400

An undisturbed run on the same object store comes first. From this run's throughput, `syncclip plan` predicts the cost
of the chaos run. The two datasets must be byte-identical.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer

from syncclip.core import text
from syncclip.synthesis.forecast import Forecast, forecast
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.settings import CostSettings
from syncclip.synthesis.status import read_status
from syncclip.workers.settings import Pool
from tests.object_store import faulty_bucket
from tests.worlds.chaos import Conditions, Outcome, digests, occurrences, storm, undisturbed_bytes
from tests.worlds.light import light_plan

app = typer.Typer(add_completion=False)


@app.command()
def chaos(
    shards: Annotated[int, typer.Option(help="Number of shards.")] = 400,
    shard_size: Annotated[int, typer.Option(help="Images per shard.")] = 16,
    pace: Annotated[float, typer.Option(help="Seconds per image.")] = 0.05,
    actors: Annotated[int, typer.Option(help="Number of actors.")] = 2,
    every: Annotated[float, typer.Option(help="Mean number of images between two kills.")] = 320.0,
    faults: Annotated[float, typer.Option(help="Fraction of S3 requests that fail.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Random seed for kills and faults.")] = 0,
    limit: Annotated[float, typer.Option(help="Timeout in seconds.")] = 3600.0,
) -> None:
    """Generate a dataset with and without kills and faults, compare the bytes, and report the cost."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # the S3 server logs each request
    plan = light_plan(shards, shard_size)
    with tempfile.TemporaryDirectory() as name:
        calm, wild = (Path(name, part) for part in ("calm", "wild"))
        expected = undisturbed_bytes(plan, Path(name, "quiet"))
        with faulty_bucket() as (bucket, proxy):
            conditions = Conditions(proxy.endpoint, actors, pace, limit=limit)
            quiet = storm(plan, f"{bucket}/quiet", calm, conditions)
            proxy.spoil_some(faults, seed=seed)
            outcome = storm(plan, f"{bucket}/set", wild, conditions._replace(every=every, seed=seed))
            proxy.soothe()
            same = digests(f"{bucket}/set") == expected
            counts = occurrences(plan, f"{bucket}/set").values()
            status = read_status(f"{bucket}/set")
            spoilt = dict(proxy.spoilt)
    text.show(text.table("Chaos run", ["", "count"], figures(plan, outcome, spoilt)))
    lost, double = sum(count == 0 for count in counts), sum(count > 1 for count in counts)
    text.show(f"{lost} lost, {double} duplicated, bytes {'equal' if same else 'DIFFERENT'}")
    assert status is not None
    comparison = against(outcome, status.hours, prediction(plan, quiet, outcome, actors))
    text.show(text.table("Forecast", ["", "measured", "predicted", "90 % of runs"], comparison))
    # An ended actor loses at most the shard that it computes and the shard that it writes.
    if not same or lost or double or outcome.wasted > outcome.deaths * 2 * shard_size + outcome.failed:
        sys.exit(1)


def prediction(plan: Plan, quiet: Outcome, outcome: Outcome, actors: int) -> Forecast:
    """Return the forecast from the undisturbed run's throughput and the chaos run's deaths and outages."""
    cost = CostSettings(
        throughput=plan.total / (actors * (quiet.ended - quiet.began - quiet.load)),
        preemptions=outcome.deaths / (outcome.alive / 3600),
        wait=max(0.0, actors * (outcome.ended - outcome.began) - outcome.alive) / max(1, outcome.deaths),
        load=quiet.load,
    )
    return forecast(plan, cost, Pool(actors))


def figures(plan: Plan, outcome: Outcome, spoilt: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the table rows with counts."""
    yield "shards", len(plan.shards())
    yield "images", plan.total
    for kind, count in sorted(outcome.kills.items()):
        yield f"killed: {kind}", count
    for fault, count in sorted(spoilt.items()):
        yield f"S3: {fault}", count
    yield "commands issued", outcome.commands
    yield "commands that gave up", len(outcome.refusals)
    yield "ended actors", outcome.deaths
    yield "images of shards whose writing failed", outcome.failed
    yield "images lost", outcome.wasted


def against(outcome: Outcome, billed: float, predicted: Forecast) -> Iterator[tuple[str, str, str, str]]:
    """Yield the table rows with measured and predicted times and costs; `billed` is the status's number of hours."""
    wall, wasted, hours = predicted.wall, predicted.wasted, predicted.hours
    yield "seconds without kills", "", f"{predicted.quiet:.0f}", ""
    yield "seconds", f"{outcome.ended - outcome.began:.0f}", f"{wall.mean:.0f}", f"{wall.low:.0f} to {wall.high:.0f}"
    yield "images lost", f"{outcome.wasted}", f"{wasted.mean:.0f}", f"{wasted.low:.0f} to {wasted.high:.0f}"
    low, high = (f"{hour * 3600:.0f}" for hour in (hours.low, hours.high))
    yield "actor seconds, alive", f"{outcome.alive:.0f}", f"{hours.mean * 3600:.0f}", f"{low} to {high}"
    yield "actor seconds, billed", f"{billed * 3600:.0f}", f"{hours.mean * 3600:.0f}", f"{low} to {high}"


if __name__ == "__main__":
    app()
