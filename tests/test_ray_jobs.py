"""`ray job submit` of the scripts in ray_jobs/ against a head of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncclip import jobs
from syncclip.recipe import Recipe
from tests.conftest import TinyWorld

PROJECT = Path(__file__).parents[1]
PATIENCE = 300.0
"""Seconds after which something is broken; busy machines take long to start Ray."""

ATTEMPTS = 3
"""Starts of the head on a machine that is too busy."""

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a Ray head with a dashboard, apart from all other Rays of this machine."""
    for attempt in range(1, ATTEMPTS + 1):
        port, dashboard, agent, agent_grpc, metrics, client, manager, objects = free_ports(8)
        command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"]
        command += [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
        command += [f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"]
        command += [f"--ray-client-server-port={client}", f"--node-manager-port={manager}"]
        command += [f"--object-manager-port={objects}", "--min-worker-port=0", "--max-worker-port=0"]
        command += ["--object-store-memory=200000000"]
        with tempfile.TemporaryDirectory(prefix="sc", dir="/tmp", ignore_cleanup_errors=True) as folder:
            log = Path(folder) / "head.log"
            with running([*command, f"--temp-dir={folder}"], log) as process:
                if answers(f"http://127.0.0.1:{dashboard}/api/version", process):
                    yield f"http://127.0.0.1:{dashboard}"
                    return
                assert attempt < ATTEMPTS, log.read_text()


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child process with a session of its own, ended afterwards with all that it started."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    # A job's `python` is looked up on the PATH with which the head was started.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    # Ray asks for a token where an earlier `ray.init` of the user left one; whether it does shouldn't decide a test.
    environment["RAY_AUTH_MODE"] = "disabled"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until `url` answers; False if the process ended instead, as Ray does where it isn't up within 30 s."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return True
        time.sleep(0.25)
    return False


def submit(head: str, *arguments: str) -> tuple[int | None, str]:
    """Run a script of ray_jobs/ as a job; returns the exit status of its driver and its log."""
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(head)
    # The tiny worlds lie elsewhere: leaving the embedded one out keeps the upload small.
    environment = {"working_dir": str(PROJECT), "excludes": ["/syncclip/embedded/icons", "/docs", "/tests", "/runs"]}
    job = client.submit_job(entrypoint=f"python ray_jobs/{' '.join(arguments)}", runtime_env=environment)
    deadline = time.monotonic() + PATIENCE
    while not client.get_job_status(job).is_terminal():
        assert time.monotonic() < deadline, client.get_job_logs(job)
        time.sleep(0.2)
    return client.get_job_info(job).driver_exit_code, client.get_job_logs(job)


def files(folder: str | Path, *patterns: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for pattern in patterns for path in sorted(Path(folder).glob(pattern))}


def test_submitted_jobs_give_the_shards_and_prompts_of_the_local_commands(
    head: str, tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    far = str(tmp_path / "far")
    status, log = submit(head, "synth.py", tiny.recipe, "--out", far)
    assert status == 0, log
    assert len(files(far, "*.tar")) == 2
    assert files(far, "*.tar", "*.parquet", "plan.json") == files(tiny_set, "*.tar", "*.parquet", "plan.json")

    status, log = submit(head, "train.py", tiny.recipe, "--out", far)
    assert status == 0, log
    near = tmp_path / "near"
    jobs.run_here(Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}"]), str(near))
    outcome = ("prompts.safetensors", "metrics.jsonl", "results.json")
    assert files(far, *outcome) == files(near, *outcome)


def test_a_mistake_in_a_submitted_job_is_one_sentence_and_status_two(head: str, tiny: TinyWorld) -> None:
    status, log = submit(head, "synth.py", tiny.recipe, "--out", "relative/folder")
    assert status == 2
    assert "relative path, which in a submitted job" in log
    assert "Traceback" not in log


def test_a_script_without_a_cluster_is_the_local_command(tiny: TinyWorld, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "ray_jobs/train.py", tiny.recipe, "--out", str(tmp_path)],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2
    assert "first run `syncclip synth" in done.stderr
