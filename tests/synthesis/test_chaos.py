"""Kills of processes and faults of the object store during a synthesis. `make chaos` is the long form, with figures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE

import pytest

from syncclip.shards.index import read_index
from syncclip.synthesis.status import part_names, read_status
from tests.object_store import faulty_bucket
from tests.worlds.chaos import Conditions, digests, occurrences, storm, undisturbed_bytes
from tests.worlds.light import LEDGER, PACE, light_plan, read_notes

SHARDS, SHARD_SIZE = 208, 16


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.nightly
@pytest.mark.timeout(1500)
def test_kills_and_faults_change_no_byte(tmp_path: Path) -> None:
    plan = light_plan(SHARDS, SHARD_SIZE)
    expected = undisturbed_bytes(plan, tmp_path / "quiet")
    with faulty_bucket() as (bucket, proxy):
        proxy.spoil_some(0.05, seed=1)
        # With this seed all kinds of processes are killed within the first third of the images.
        conditions = Conditions(proxy.endpoint, actors=2, pace=0.02, every=280.0, seed=162, limit=1100.0)
        outcome = storm(plan, f"{bucket}/set", tmp_path, conditions)
        proxy.soothe()
        assert digests(f"{bucket}/set") == expected
        assert set(occurrences(plan, f"{bucket}/set").values()) == {1}
        assert {"503", "reset", "slow"} <= proxy.spoilt.keys()
    assert {"actor", "driver", "queue", "worker"} <= outcome.kills.keys()
    # A process that dies may lose the shard that it writes and the one that it generates.
    assert 0 <= outcome.wasted <= outcome.deaths * 2 * SHARD_SIZE + outcome.failed


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_three_ray_clusters_fill_a_dataset_on_s3(tmp_path: Path) -> None:
    """Each job starts its own Ray head. The second one is killed (-9) in the middle of its shards and restarted."""
    plan = light_plan(60, 16)
    expected = undisturbed_bytes(plan, tmp_path / "quiet")
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    ledgers = [tmp_path / f"ledger{part}" for part in range(3)]
    for ledger in ledgers:
        ledger.touch()
    with faulty_bucket() as (bucket, proxy):
        url = f"{bucket}/set"
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {PACE: "0.1", "AWS_ENDPOINT_URL_S3": proxy.endpoint, "PYTHONPATH": os.pathsep.join(sys.path)}

        def start(part: int) -> subprocess.Popen[str]:
            line = [sys.executable, "-m", "tests.worlds.light", str(tmp_path / "plan.json"), url, "1", f"{part + 1}/3"]
            return subprocess.Popen(line, env=environment | {LEDGER: str(ledgers[part])}, stderr=PIPE, text=True)

        with ExitStack() as stack:
            jobs = [start(part) for part in range(3)]
            for job in jobs:
                stack.callback(job.kill)
            while sum(note.event == "draw" for note in read_notes(ledgers[1])) < 34:  # of 80 batches
                assert jobs[1].poll() is None, jobs[1].communicate()[1]
                time.sleep(0.1)
            jobs[1].send_signal(signal.SIGSTOP)  # otherwise, it may end while another job for its shards starts
            _, error = start(1).communicate()
            assert "`synth --shards 20:40` of " in error
            jobs[1].kill()
            jobs[1].wait()
            jobs[1] = start(1)
            stack.callback(jobs[1].kill)
            errors = [job.communicate()[1] for job in jobs]
        assert [job.returncode for job in jobs] == [0, 0, 0], errors
        assert digests(url) == expected and set(occurrences(plan, url).values()) == {1}
        status = read_status(url)
        assert status is not None and (status.state, status.images) == ("complete", plan.total)
        assert part_names(url) == [] and read_index(url) is not None
    drawn = [sum(note.images for note in read_notes(ledger) if note.event == "draw") for ledger in ledgers]
    assert drawn[0] == drawn[2] == 320 and 320 <= drawn[1] <= 320 + 2 * 16
