"""The Slurm scripts with programs of ours in the place of Slurm's and Ray's."""

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
    # Leaves its own options out and runs the rest here.
    "srun": 'while [[ "$1" == --* ]]; do shift; done; echo "srun $*" >> "$LOG"; exec "$@"',
    "hostname": 'echo "10.0.0.7 172.17.0.1"',
}
WELL = 'echo "ray $1" >>"$LOG"; [ $1 = stop ] && exit; while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
UNTOLD = "for _ in {1..1200}; do sleep 0.05; done; echo never told"
"""A command that works for a minute."""
NOT_STARTED = 'echo "Failed to start Ray"; exit 0'
"""As `ray symmetric-run` ends where a node has no room for it."""


def start(folder: Path, ray: str, *command: str) -> subprocess.Popen[str]:
    """`ray.sh COMMAND` among programs that stand in for Slurm's and Ray's."""
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
    """`ray.sh COMMAND`: exit status, output, what srun was asked for."""
    job = start(folder, ray, *command)
    output, _ = job.communicate()
    return job.returncode, output, (folder / "log").read_text()


def test_the_command_runs_on_a_ray_of_all_nodes(tmp_path: Path) -> None:
    status, output, asked = run(tmp_path, WELL, "echo", "two words", "synthesis.actors=2")

    assert (status, output) == (0, "two words synthesis.actors=2\n")
    *_, asked, stopped, ran = asked.splitlines()
    assert (stopped, ran) == ("ray stop", "ray symmetric-run")  # what an earlier job left goes first
    words = shlex.split(asked)
    assert words[words.index("--address") + 1] == "10.0.0.7:21234"
    assert words[words.index("--min-nodes") + 1] == "2"
    assert {"--num-cpus=8", "--num-gpus=1"} <= set(words)
    assert any(word.startswith(f"PATH={SLURM / 'again'}:") for word in words)


def test_a_token_is_asked_for_and_is_another_each_time(tmp_path: Path) -> None:
    tokens = [run(tmp_path, WELL, "bash", "-c", 'echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN"')[1] for _ in range(2)]

    assert all(re.fullmatch(r"token [0-9a-f]{64}\n", told) for told in tokens)
    assert tokens[0] != tokens[1]


def test_a_command_that_fails_fails_the_job(tmp_path: Path) -> None:
    assert run(tmp_path, WELL, "bash", "-c", "exit 2")[0] == 2


def test_a_notice_reaches_the_command_alone_which_finishes_what_is_in_flight(tmp_path: Path) -> None:
    ready, folder = tmp_path / "ready", tmp_path / "job"
    folder.mkdir()
    body = f'trap "echo finished; exit 143" TERM; touch {ready}; {UNTOLD}'
    with start(folder, WELL, "bash", "-c", body) as job:
        while not ready.exists():
            assert job.poll() is None
        job.terminate()
        output, _ = job.communicate()
    assert (job.returncode, output) == (143, "finished\n")


def test_a_ray_that_did_not_start_fails_the_job(tmp_path: Path) -> None:
    status, output, _ = run(tmp_path, NOT_STARTED, "echo", "done")

    assert status == 1
    assert "Ray did not start on all nodes" in output


@pytest.mark.parametrize(
    ("said", "failures", "status", "starts"),
    [
        ("", 0, 0, 1),
        ("The current node timed out during startup.", 4, 0, 5),
        ("The current node timed out during startup.", 5, 1, 5),
        ("Failed to start GCS. Last connection error:", 1, 0, 2),
        ("No such option: --num-cpu", 5, 1, 1),
    ],
)
def test_only_a_start_that_took_too_long_is_tried_again(
    said: str, failures: int, status: int, starts: int, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    program = tmp_path / "ray"
    program.write_text(
        f"#!/bin/bash\necho $@ >>{log}\n[ $1 = start ] || exit 0\n"
        f"[ $(grep -c ^start {log}) -gt {failures} ] && exit\necho '{said}' >&2\nexit 1\n"
    )
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{SLURM / 'again'}:{tmp_path}:{os.environ['PATH']}"}

    done = subprocess.run(["ray", "start", "--head", "a b"], env=environment, capture_output=True, text=True)

    assert done.returncode == status
    assert log.read_text().splitlines() == ["start --head a b", *["stop", "start --head a b"] * (starts - 1)] + (
        ["stop"] if "timed out" in said and status else []
    )


@pytest.mark.parametrize("name", JOBS)
def test_a_batch_script_hands_its_arguments_to_the_command(name: str, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name", JOBS)
def test_a_job_has_its_nodes_alone_and_may_be_put_back(name: str) -> None:
    options = re.findall(r"^#SBATCH --([\w-]+)", (SLURM / f"{name}.sh").read_text(), re.MULTILINE)

    assert {"exclusive", "requeue", "nodes", "ntasks-per-node", "open-mode", "time"} <= set(options)
