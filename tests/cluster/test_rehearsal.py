"""The rehearsal that cluster/README.md shows: workers come on demand, one is lost, all go; the same bytes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.configs import launches, read
from tests.cluster.rehearsals import PROJECT
from tests.conftest import TinyWorld
from tests.test_ray_jobs import files

SLOW = ("synthesis.images_per_class=24", "synthesis.shard_size=6", "synthesis.generator.steps=10")
"""Shards of a second, enough of them to outlast a worker that is lost and another that comes."""


def test_the_file_lets_two_workers_come_and_no_more() -> None:
    types = read("rehearsal")["available_node_types"]

    assert launches(types, {"CPU": 1.0}, 2) == {"generate": 2}
    assert launches(types, {"CPU": 1.0}, 9) == {"generate": 2}


@pytest.mark.xdist_group("heads")
@pytest.mark.cluster
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
def test_workers_come_on_demand_one_is_lost_and_all_go(tiny: TinyWorld, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster.rehearsal", tiny.recipe, *SLOW, "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "REHEARSED_IN": str(tmp_path)}
    try:
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=1000)
    finally:
        left = put_away(tmp_path)
    print(done.stdout)
    assert done.returncode == 0, done.stderr + done.stdout

    far, near = (files(tmp_path / place, "*.tar", "*.parquet", "plan.json") for place in ("cluster", "quiet"))
    assert len(far) == 2 * 24 + 1
    assert far == near
    figures = {name: float(figure) for name, figure in re.findall(r"│ (\w.*?\w) +│ +([\d.]+) │", done.stdout)}
    assert figures["workers in total"] >= 3
    assert 0 < figures["shards committed by then"] < figures["shards in the end"] == 24
    assert left == []


def put_away(folder: Path) -> list[str]:
    """Kill processes of the rehearsal that still run; returns their names."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("REHEARSED_IN") == str(folder):
                found.append(process.name())
                process.kill()
    return found
