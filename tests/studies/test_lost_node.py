"""A study on a cluster of two nodes that loses one of them: all runs are bit-identical to undisturbed ones."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster.rehearsal import HEALTH
from syncclip.studies.cells import prepare, run_cell
from syncclip.studies.grid import cells
from syncclip.studies.outputs import read_json
from syncclip.studies.run import ensure_set, with_amounts
from syncclip.studies.status import read_study_status
from tests.ray_head import SMALL, ray_head, suspended_until_two_run
from tests.worlds.study import make_set, study_recipe, study_world

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.fault, pytest.mark.xdist_group("heads")]

TIMEOUT_SECONDS = 500.0
GRID = ("study.seeds=[1,2,3,4]", "study.images_per_class=[1,2,4]", "training.epochs=6")
CELLS = 1 + 4 + 2 * 3 * 4
"""Zero-shot; by four seeds, real images, and two configurations at three numbers of images."""

FILES = ("prompts.safetensors", "metrics.jsonl", "results.json", "predictions.parquet")
ONE_CPU = "--num-cpus=1"


def test_study_completes_after_the_loss_of_a_node(tmp_path: Path) -> None:
    root = study_world(tmp_path / "world")
    make_set(study_recipe(root, "synthesis.images_per_class=4"), str(root / "set"))
    values = (*GRID, f"training.synthetic={root}/set")
    quiet, disturbed = tmp_path / "quiet", tmp_path / "disturbed"
    with ray_head(ONE_CPU, f"--system-config={json.dumps(HEALTH)}") as head:
        head.join(ONE_CPU, SMALL)
        lost = next(node for node, is_head in head.nodes().items() if not is_head)
        raylet = next(process for process in head.processes(lost) if process.name() == "raylet")
        command = [sys.executable, "-m", "syncclip", "study", str(root / "tiny.yaml"), *values, "--out", str(disturbed)]
        environment = {**os.environ, **head.to_join, "OMP_NUM_THREADS": "1"}
        with (tmp_path / "log").open("wb") as log:
            driver = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            with suspended_until_two_run(head.address, "ray::run_cell"):
                finished_before = wait_for(4, disturbed, raylet, driver, tmp_path / "log")
            head.lose(lost)
            assert driver.wait(TIMEOUT_SECONDS) == 0, (tmp_path / "log").read_text()
        finally:
            driver.kill()
            driver.wait()
    assert finished_before < CELLS / 2, "the node was lost too late"
    assert {cell["status"] for cell in read_json(str(disturbed / "study.json"))["cells"]} == {"done"}
    status = read_study_status(str(disturbed))
    assert status is not None and (status.state, status.done, status.failed) == ("ended", CELLS, {})
    assert (disturbed / "report.html").exists()

    recipe = study_recipe(root, *values)
    recipe, _ = with_amounts(recipe, ensure_set(recipe, None))
    runs = prepare(recipe, cells(recipe.study), str(quiet), recipe.training.synthetic)
    assert len(runs) == CELLS
    for run in runs:
        assert run_cell(run.spec)["error"] is None
        name = run.cell.name
        expected, actual = (
            [(root / "cells" / name / file).read_bytes() for file in FILES] for root in (quiet, disturbed)
        )
        assert actual == expected, name


def wait_for(count: int, folder: Path, raylet: psutil.Process, driver: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until `count` trainings are done and the raylet's node runs another one; return how many are done."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while (done := len(list(folder.glob("cells/*/results.json")))) < count or not runs_training(raylet):
        assert driver.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    return done


def runs_training(raylet: psutil.Process) -> bool:
    """Whether a worker of this node runs a training, by the process title that Ray sets."""
    with contextlib.suppress(psutil.Error):
        return any("run_cell" in " ".join(child.cmdline()) for child in raylet.children(recursive=True))
    return False
