"""Training on a cluster, one of whose nodes receives a preemption notice and is drained by Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from syncclip.training import loop
from syncclip.training.loop import TrainJob, run
from syncclip.training.run_folder import RunRecord
from tests.ray_head import PATIENCE
from tests.training import fakes
from tests.training.processes import run_ranks

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

    Lose = Callable[[Cluster, str], object]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly, pytest.mark.xdist_group("heads")]

NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}
NOTICE = "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=600"
WATCHER = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
"""Ray's defaults are 1 and 5 s; `conftest.py` disables the watcher, which is another process."""

CHANGES: dict[str, Any] = {"workers": 2, "checkpoint_every": 1000}

DRIVER = """
import sys
sys.path.insert(0, sys.argv[2])
from syncclip.training.ray_train import train_on_ray
from tests.training import fakes, test_preemption as test
settings = fakes.settings(max_failures=int(sys.argv[3]), **test.CHANGES)
train_on_ray(test.build, {"url": sys.argv[1]}, fakes.folder(sys.argv[1]), settings)
"""


def build(spec: dict[str, Any], rank: int, world_size: int) -> TrainJob:
    """Build a training that waits for a notice or its end in its sixth step, and records the node of each step."""
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


def train(
    tmp_path: Path, max_failures: int, environment: dict[str, str], lose: Callable[[Cluster, str], object]
) -> str:
    """Train with two workers on three nodes with room for one worker each; lose and return a node in the sixth step."""
    from ray.cluster_utils import Cluster

    folder, log = tmp_path / "run", tmp_path / "log"
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(**NODE)
        environment = os.environ | environment | {"RAY_ADDRESS": cluster.address}
        command = [sys.executable, "-c", DRIVER, str(folder), str(Path(__file__).parents[2]), str(max_failures)]
        with log.open("wb") as output:
            driver = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + PATIENCE
            while len(list(folder.glob("*.rank*"))) < 2 * 6:
                assert driver.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            nodes = {file.read_text() for file in folder.glob("*.rank*")}
            lost = sorted(nodes - {cluster.head_node.node_id})[0]
            lose(cluster, lost)
            assert driver.wait(PATIENCE) == 0, log.read_text()
        finally:
            driver.kill()
            driver.wait()
    finally:
        cluster.shutdown()
    return lost


def steps(folder: Path) -> list[str]:
    """Return the node of each step of each rank, in order of time."""
    return [file.read_text() for file in sorted(folder.glob("*.rank*"))]


def drain(cluster: Cluster, node: str) -> None:
    command = [str(Path(sys.executable).parent / "ray"), "drain-node", f"--address={cluster.address}"]
    subprocess.run([*command, f"--node-id={node}", *NOTICE], check=True)


def remove(cluster: Cluster, node: str) -> None:
    (lost,) = (each for each in cluster.list_all_nodes() if each.node_id == node)
    cluster.remove_node(lost, allow_graceful=False)


@pytest.mark.parametrize(
    ("max_failures", "watcher", "lose", "repeated"),
    [
        pytest.param(0, WATCHER, drain, 0, id="notice"),
        pytest.param(1, {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}, remove, 6, id="no notice"),
    ],
)
def test_a_notice_saves_the_steps_since_the_last_checkpoint(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_failures: int,
    watcher: dict[str, str],
    lose: Lose,
    repeated: int,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    lost = train(tmp_path, max_failures, watcher, lose)
    folder = tmp_path / "run"
    record = RunRecord.model_validate_json((folder / "run.json").read_text())
    assert record.status == "finished"
    assert repeated or record.notes == ["run 'fake' resumes after step 6 of 20"]
    nodes = steps(folder)
    assert len(nodes) == 2 * (20 + repeated) and lost not in nodes[2 * 6 :]

    run_ranks(reference, 2, tmp_path)
    assert fakes.bits(folder) == fakes.bits(tmp_path / "reference")
