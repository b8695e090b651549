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
from tests.ray_head import PATIENCE, SMALL, ray_head
from tests.training import fakes
from tests.training.processes import run_ranks

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly, pytest.mark.xdist_group("heads")]

ONE_CPU = "--num-cpus=1"
NOTICE = "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=600"
CHANGES: dict[str, Any] = {"workers": 2, "max_failures": 0, "checkpoint_every": 1000}

DRIVER = """
import sys
sys.path.insert(0, sys.argv[2])
from syncclip.training.ray_train import train_on_ray
from tests.training import fakes, test_preemption as test
train_on_ray(test.build, {"url": sys.argv[1]}, fakes.folder(sys.argv[1]), fakes.settings(**test.CHANGES))
"""


def build(spec: dict[str, Any], rank: int, world_size: int) -> TrainJob:
    """Build function of a training that waits for the notice in its sixth step, and counts the steps of each rank."""
    import ray.train

    loop.NOTICE_SECONDS = 0.0
    folder = Path(spec["url"])
    job = fakes.job(folder, rank, world_size, noise=0.0, **CHANGES)
    original = job.method.loss

    def loss(batch: fakes.FakeBatch) -> dict[str, Any]:
        (folder / f"{time.time_ns()}.rank{rank}").touch()
        if len(list(folder.glob(f"*.rank{rank}"))) == 6:
            while ray.train.get_preemption_info() is None:
                time.sleep(0.1)
        return original(batch)

    job.method.loss = loss
    return job


def reference(rank: int, world_size: int, folder: Path) -> None:
    run(fakes.job(folder / "reference", rank, world_size, noise=0.0, **CHANGES), rank, world_size)


def test_training_leaves_a_drained_node_and_repeats_no_step(tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"

    def wait_for_steps(count: int, driver: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(list(folder.glob("*.rank*"))) < count:
            assert driver.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    with ray_head(ONE_CPU) as head:
        head.join(ONE_CPU, SMALL)
        command = [sys.executable, "-c", DRIVER, str(folder), str(Path(__file__).parents[2])]
        with log.open("wb") as output:
            driver = subprocess.Popen(command, env={**os.environ, **head.to_join}, stdout=output, stderr=output)
        try:
            wait_for_steps(2 * 6, driver)
            node = next(node for node, is_head in head.nodes().items() if not is_head)
            ray = str(Path(sys.executable).parent / "ray")
            drain = [ray, "drain-node", f"--address={head.to_join['RAY_ADDRESS']}", f"--node-id={node}", *NOTICE]
            subprocess.run(drain, env={**os.environ, **head.to_join}, check=True)
            head.join(ONE_CPU, SMALL)
            assert driver.wait(PATIENCE) == 0, log.read_text()
        finally:
            driver.kill()
            driver.wait()
    record = RunRecord.model_validate_json((folder / "run.json").read_text())
    assert (record.status, record.notes) == ("finished", ["run 'fake' resumes after step 6 of 20"])
    assert len(list(folder.glob("*.rank*"))) == 2 * 20

    run_ranks(reference, 2, tmp_path)
    assert fakes.bits(folder) == fakes.bits(tmp_path / "reference")
