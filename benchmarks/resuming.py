"""Measure how long `synth` takes to resume a large dataset on S3: `python -m benchmarks.resuming --help`.

By default, all shards but the last are committed. The time is measured in a new process, from the call until the first
missing shard would be sent to the actors. The store is moto in a separate process, with listings from a sorted list of
names. It has hardly any latency, so the number of requests is reported as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from functools import partial
from multiprocessing import get_context
from typing import Annotated
from unittest import mock

import typer

from benchmarks.measuring import in_new_process
from benchmarks.planning import peak_bytes
from syncclip import storage
from syncclip.shards.markers import ShardStats, shard_name, stats_name, table_name
from syncclip.storage.checksums import with_checksum
from syncclip.synthesis import driver
from syncclip.synthesis.plan import PLAN_NAME, Plan
from tests.object_store import ENVIRONMENT
from tests.worlds.large_s3 import serve
from tests.worlds.light import CLASSES, light_plan

BUCKET, FOLDER, SHARD_SIZE = "bucket", "set", 1000


def resume(endpoint: str, plan: str) -> tuple[float, float, int]:
    """Resume the dataset until the first shard starts; return (seconds, seconds of CPU time, peak resident bytes)."""
    storage.configure({"endpoint_url": endpoint})
    wall, cpu = time.monotonic(), time.process_time()
    with (
        mock.patch.object(driver, "ray_session", nullcontext),  # measured by `orchestration`
        mock.patch.object(driver, "check_capacity"),
        mock.patch.object(driver, "run_job", side_effect=KeyboardInterrupt),
        suppress(KeyboardInterrupt),
    ):
        driver.synthesise_set(Plan.model_validate_json(plan), f"s3://{BUCKET}/{FOLDER}", show=False)
    return time.monotonic() - wall, time.process_time() - cpu, peak_bytes()


def _files(text: str, committed: int, grouped: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and contents of the committed shards' files; tables and tars are empty."""
    plan = Plan.model_validate_json(text)
    for name, content in _named(plan, committed, grouped):
        yield f"{FOLDER}/{name}", content


def _named(plan: Plan, committed: int, grouped: bool) -> Iterator[tuple[str, bytes]]:
    yield PLAN_NAME, with_checksum(plan.model_dump_json().encode(), "json", plan.owner)
    per_class, group = dict.fromkeys(range(CLASSES), SHARD_SIZE // CLASSES), list[ShardStats]()
    for shard in plan.shards()[:committed]:
        no_data = {"count": SHARD_SIZE, "bytes": 0, "sha256": "0" * 64, "table_sha256": "0" * 64}
        stats = ShardStats(shard=shard, per_class=per_class, owner=plan.owner, **no_data)
        yield shard_name(shard), b""
        yield table_name(shard), b""
        yield stats_name(shard), with_checksum(stats.model_dump_json().encode(), "json", plan.owner)
        group.append(stats)
        if grouped and len(group) == 1000:
            from syncclip.shards.markers import MarkerGroup, group_name

            content = MarkerGroup(markers=tuple(group)).model_dump_json()
            yield group_name(shard // 1000), with_checksum(content.encode(), "json", plan.owner)
            group.clear()


def main(
    shards: Annotated[int, typer.Option(min=1, help="Number of shards.")] = 100_000,
    committed: Annotated[int | None, typer.Option(min=0, help="Committed shards; default: all but the last.")] = None,
    grouped: Annotated[bool, typer.Option(help="Whether the markers of a thousand shards are stored together.")] = True,
) -> None:
    """Resume a dataset, and print the time, memory and requests."""
    os.environ |= ENVIRONMENT
    plan = light_plan(shards, SHARD_SIZE).model_dump_json()
    parent, child = get_context("spawn").Pipe()
    committed = shards - 1 if committed is None else committed
    files = partial(_files, plan, committed, grouped)
    server = get_context("spawn").Process(target=serve, args=(child, BUCKET, files), daemon=True)
    server.start()
    wall, cpu, peak = in_new_process(resume, parent.recv(), plan)
    parent.send("done")
    requests = ", ".join(f"{count:,} {kind}" for kind, count in parent.recv().items())
    cost = f"{wall:.1f} s, {cpu:.1f} s of CPU time, peak {peak / 1e6:.0f} MB"
    print(f"{committed:,} of {shards:,} shards committed: {cost}; {requests}")


if __name__ == "__main__":
    typer.run(main)
