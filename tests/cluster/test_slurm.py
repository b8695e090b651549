"""The Slurm scripts, with stubs for the programs of Slurm and Ray."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.cluster.configs import CLUSTER

SLURM = CLUSTER / "slurm"
JOBS = ("synth", "train", "study")

PROGRAMS = {
    "scontrol": 'echo "node1"',
    # Skips its options and runs the command.
    "srun": 'while [[ "$1" == --* ]]; do shift; done; echo "srun $*" >> "$LOG"; exec "$@"',
    "hostname": 'echo "10.0.0.7 172.17.0.1"',
}
STARTED = 'echo "ray $1" >>"$LOG"; [ $1 = stop ] && exit; while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
MINUTE = "for _ in {1..1200}; do sleep 0.05; done; echo not signalled"
"""A command that runs for a minute."""
NOT_STARTED = 'echo "Failed to start Ray"; exit 0'
"""Stub of `ray symmetric-run` on a node that runs out of resources."""


def start(folder: Path, ray: str, *command: str) -> subprocess.Popen[str]:
    """Start `ray.sh COMMAND` with stubs of the programs of Slurm and Ray."""
    for name, lines in {**PROGRAMS, "ray": ray}.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{lines}\n")
        (folder / name).chmod(0o755)
    log = folder / "log"
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "LOG": str(log),
        "SLURM_SUBMIT_DIR": str(CLUSTER.parent),
        "SLURM_JOB_ID": "41234",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "1",
    }
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(["bash", str(SLURM / "ray.sh"), *command], env=environment, **pipes)  # type: ignore[call-overload]


def run(folder: Path, ray: str, *command: str) -> tuple[int, str, str]:
    """Run `ray.sh COMMAND`; returns exit status, output, and the calls of srun and ray."""
    job = start(folder, ray, *command)
    output, _ = job.communicate()
    return job.returncode, output, (folder / "log").read_text()


def test_the_command_runs_on_a_ray_of_all_nodes(tmp_path: Path) -> None:
    status, output, calls = run(tmp_path, STARTED, "echo", "two words", "synthesis.actors=2")

    assert (status, output) == (0, "two words synthesis.actors=2\n")
    *_, call, stopped, ran = calls.splitlines()
    assert (stopped, ran) == ("ray stop", "ray symmetric-run")  # stops Ray of an earlier job first
    words = shlex.split(call)
    assert words[words.index("--address") + 1] == "10.0.0.7:21234"
    assert words[words.index("--min-nodes") + 1] == "2"
    assert {"--num-cpus=8", "--num-gpus=1"} <= set(words)
    assert any(word.startswith(f"PATH={SLURM / 'again'}:") for word in words)


def test_each_job_requires_a_token_of_its_own(tmp_path: Path) -> None:
    tokens = [run(tmp_path, STARTED, "bash", "-c", 'echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN"')[1] for _ in range(2)]

    assert all(re.fullmatch(r"token [0-9a-f]{64}\n", token) for token in tokens)
    assert tokens[0] != tokens[1]


def test_a_failed_command_fails_the_job(tmp_path: Path) -> None:
    assert run(tmp_path, STARTED, "bash", "-c", "exit 2")[0] == 2


def test_slurms_notice_reaches_only_the_command_which_finishes_its_work(tmp_path: Path) -> None:
    ready, folder = tmp_path / "ready", tmp_path / "job"
    folder.mkdir()
    body = f'trap "echo finished; exit 143" TERM; touch {ready}; {MINUTE}'
    with start(folder, STARTED, "bash", "-c", body) as job:
        while not ready.exists():
            assert job.poll() is None
        job.terminate()
        output, _ = job.communicate()
    assert (job.returncode, output) == (143, "finished\n")


def test_a_failed_start_of_ray_fails_the_job(tmp_path: Path) -> None:
    status, output, _ = run(tmp_path, NOT_STARTED, "echo", "done")

    assert status == 1
    assert "Ray did not start on all nodes" in output


@pytest.mark.parametrize(
    ("error", "failures", "status", "starts"),
    [
        ("", 0, 0, 1),
        ("The current node timed out during startup.", 4, 0, 5),
        ("The current node timed out during startup.", 5, 1, 5),
        ("Failed to start GCS. Last connection error:", 1, 0, 2),
        ("No such option: --num-cpu", 5, 1, 1),
    ],
)
def test_only_timeouts_of_a_start_are_retried(
    error: str, failures: int, status: int, starts: int, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    program = tmp_path / "ray"
    program.write_text(
        f"#!/bin/bash\necho $@ >>{log}\n[ $1 = start ] || exit 0\n"
        f"[ $(grep -c ^start {log}) -gt {failures} ] && exit\necho '{error}' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{SLURM / 'again'}:{tmp_path}:{os.environ['PATH']}"}

    done = subprocess.run(["ray", "start", "--head", "a b"], env=environment, capture_output=True, text=True)

    assert done.returncode == status
    assert log.read_text().splitlines() == ["start --head a b", *["stop", "start --head a b"] * (starts - 1)] + (
        ["stop"] if "timed out" in error and status else []
    )


@pytest.mark.parametrize("name", JOBS)
def test_a_batch_script_passes_its_arguments_and_has_exclusive_nodes(name: str, tmp_path: Path) -> None:
    (tmp_path / "cluster" / "slurm").mkdir(parents=True)
    (tmp_path / "cluster" / "slurm" / "ray.sh").write_text('echo "$@"')
    environment = {**os.environ, "SLURM_SUBMIT_DIR": str(tmp_path)}

    done = subprocess.run(
        ["bash", str(SLURM / f"{name}.sh"), "birds.yaml", "study.seeds=[1, 2]"],
        env=environment,
        capture_output=True,
        text=True,
    )

    assert done.stdout == f"syncclip {name} birds.yaml study.seeds=[1, 2]\n"
    options = re.findall(r"^#SBATCH --([\w-]+)", (SLURM / f"{name}.sh").read_text(), re.MULTILINE)

    assert {"exclusive", "requeue", "nodes", "ntasks-per-node", "open-mode", "time"} <= set(options)
