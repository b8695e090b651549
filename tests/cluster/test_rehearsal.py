"""The rehearsal in cluster/README.md: workers start on demand, one is lost, all stop; the bytes are the same."""

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
"""Shards of a second, enough of them to outlast the loss and the start of a worker."""


def test_the_rehearsal_starts_at_most_two_workers() -> None:
    types = read("rehearsal")["available_node_types"]
    assert launches(types, {"CPU": 1.0}, 2) == launches(types, {"CPU": 1.0}, 9) == {"generate": 2}


@pytest.mark.xdist_group("heads")
@pytest.mark.nightly
@pytest.mark.cluster
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
def test_a_lost_worker_changes_no_byte_and_no_process_remains(tiny: TinyWorld, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster.rehearsal", tiny.recipe, *SLOW, "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "REHEARSED_IN": str(tmp_path)}
    try:
        done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=1000)
    finally:
        killed = kill_remaining(tmp_path)
    print(done.stdout)
    assert done.returncode == 0, done.stderr + done.stdout

    far, near = (files(tmp_path / name, "*.tar", "*.parquet", "plan.json") for name in ("cluster", "quiet"))
    assert len(far) == 2 * 24 + 1
    assert far == near
    figures = {name: float(figure) for name, figure in re.findall(r"│ (\w.*?\w) +│ +([\d.]+) │", done.stdout)}
    assert figures["workers in total"] >= 3
    assert 0 < figures["shards committed by then"] < figures["shards in the end"] == 24
    assert killed == []


def kill_remaining(folder: Path) -> list[str]:
    """Kill the processes of the rehearsal that still run; returns their names."""
    names = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("REHEARSED_IN") == str(folder):
                names.append(process.name())
                process.kill()
    return names
