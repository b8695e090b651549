"""Training on a cluster, one of whose nodes receives a preemption notice and is drained by Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from syncclip.training import loop
from syncclip.training.loop import TrainJob, run
from syncclip.training.run_folder import RunRecord
from tests.ray_head import PATIENCE
from tests.training import fakes
from tests.training.processes import run_ranks

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly, pytest.mark.xdist_group("heads")]

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}
NOTICE = "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=600"
WATCHER = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
"""Ray's defaults are 1 and 5 s; `conftest.py` disables the watcher, which is another process."""

CHANGES: dict[str, Any] = {"workers": 2, "max_failures": 0, "checkpoint_every": 1000}

DRIVER = """
import sys
sys.path.insert(0, sys.argv[2])
from syncclip.training.ray_train import train_on_ray
from tests.training import fakes, test_preemption as test
train_on_ray(test.build, {"url": sys.argv[1]}, fakes.folder(sys.argv[1]), fakes.settings(**test.CHANGES))
"""


def build(spec: dict[str, Any], rank: int, world_size: int) -> TrainJob:
    """Build function of a training that waits for the notice in its sixth step, and records the node of each step."""
    import ray.train

    loop.NOTICE_SECONDS = 0.0
    folder = Path(spec["url"])
    job = fakes.job(folder, rank, world_size, noise=0.0, **CHANGES)
    original = job.method.loss

    def loss(batch: fakes.FakeBatch) -> dict[str, Any]:
        (folder / f"{time.time_ns()}.rank{rank}").write_text(ray.get_runtime_context().get_node_id())
        if len(list(folder.glob(f"*.rank{rank}"))) == 6:
            while ray.train.get_preemption_info() is None:
                time.sleep(0.1)
        return original(batch)

    job.method.loss = loss
    return job


def reference(rank: int, world_size: int, folder: Path) -> None:
    run(fakes.job(folder / "reference", rank, world_size, noise=0.0, **CHANGES), rank, world_size)


def test_training_leaves_a_drained_node_and_repeats_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers on a cluster of three nodes with room for one worker each; `max_failures` is 0."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    folder, log = tmp_path / "run", tmp_path / "log"
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(**NODE)
        environment = os.environ | {"RAY_ADDRESS": cluster.address} | WATCHER
        command = [sys.executable, "-c", DRIVER, str(folder), str(Path(__file__).parents[2])]
        with log.open("wb") as output:
            driver = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + PATIENCE
            while len(list(folder.glob("*.rank*"))) < 2 * 6:
                assert driver.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            before = {file.read_text() for file in folder.glob("*.rank*")}
            drained = sorted(before - {cluster.head_node.node_id})[0]
            ray = str(Path(sys.executable).parent / "ray")
            options = f"--address={cluster.address}", f"--node-id={drained}", *NOTICE
            subprocess.run([ray, "drain-node", *options], env=environment, check=True)
            assert driver.wait(PATIENCE) == 0, log.read_text()
        finally:
            driver.kill()
            driver.wait()
    finally:
        cluster.shutdown()
    record = RunRecord.model_validate_json((folder / "run.json").read_text())
    assert (record.status, record.notes) == ("finished", ["run 'fake' resumes after step 6 of 20"])
    nodes = [file.read_text() for file in sorted(folder.glob("*.rank*"))]
    assert len(nodes) == 2 * 20 and drained not in nodes[2 * 6 :]

    run_ranks(reference, 2, tmp_path)
    assert fakes.bits(folder) == fakes.bits(tmp_path / "reference")
