"""Elastic training on a cluster that grows from one node to two and shrinks again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cluster.rehearsal import HEALTH
from syncclip.training.loop import run
from syncclip.training.run_folder import RunRecord
from tests.ray_head import SMALL, ray_head
from tests.training import fakes
from tests.training.test_ray_train import curve

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly, pytest.mark.xdist_group("heads")]

TIMEOUT_SECONDS = 900.0
ONE_CPU = "--num-cpus=1"
ENVIRONMENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"}
"""Time that Ray waits for a second worker after the loss of its node; 60 s by default."""

DRIVER = """
import sys
sys.path.insert(0, sys.argv[2])
from syncclip.training import ray_train
from tests.training import fakes
ray_train.RESIZE_SECONDS = 1.0
changes = {"workers": 2, "min_workers": 1}
# One worker pauses in its tenth step, two in their fifth: the training only ends if it grows and shrinks.
spec = {"url": sys.argv[1], "settings": changes, "noise": 0.0, "pause_with": {"1": 10, "2": 5}}
ray_train.train_on_ray(fakes.build, spec, fakes.folder(sys.argv[1]), fakes.settings(**changes))
"""


def record(folder: Path) -> RunRecord:
    return RunRecord.model_validate_json((folder / "run.json").read_text())


def test_elastic_training_grows_and_shrinks_with_the_cluster(tmp_path: Path) -> None:
    folder, log = tmp_path / "run", tmp_path / "log"
    with ray_head(ONE_CPU, f"--system-config={json.dumps(HEALTH)}") as head:
        command = [sys.executable, "-c", DRIVER, str(folder), str(Path(__file__).parents[2])]
        environment = {**os.environ, **head.to_join, **ENVIRONMENT}
        with log.open("wb") as output:
            driver = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:

            def wait_for(checkpoint: str) -> None:
                deadline = time.monotonic() + TIMEOUT_SECONDS
                while not (folder / "checkpoints" / checkpoint).exists():
                    assert driver.poll() is None and time.monotonic() < deadline, log.read_text()
                    time.sleep(0.1)

            wait_for("step-00000009.json")
            assert record(folder).workers == 1
            head.join(ONE_CPU, SMALL)
            wait_for("step-00000012.json")
            assert record(folder).workers == 2
            head.lose(next(node for node, is_head in head.nodes().items() if not is_head))
            assert driver.wait(TIMEOUT_SECONDS) == 0, log.read_text()
        finally:
            driver.kill()
            driver.wait()
    assert (record(folder).status, record(folder).workers) == ("finished", 1)
    assert record(folder).notes == [
        "run 'fake' resumes after step 9 of 20",
        "the checkpoint was written by 1 worker, but the run resumes with 2; the last bits of the results may differ",
        "run 'fake' resumes after step 12 of 20",
        "the checkpoint was written by 2 workers, but the run resumes with 1; the last bits of the results may differ",
    ]

    run(fakes.job(tmp_path / "single", noise=0.0))
    assert curve(folder) == pytest.approx(curve(tmp_path / "single"), abs=1e-5)
    elastic, single = (safetensors.torch.load_file(at / "prompts.safetensors") for at in (folder, tmp_path / "single"))
    torch.testing.assert_close(elastic, single, rtol=1e-5, atol=1e-6)
