"""Commands in processes of their own that receive signals, or lose their Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from syncclip import jobs
from syncclip.recipe.recipe import Recipe
from syncclip.runtime.shutdown import INTERRUPTED_MESSAGE
from tests.conftest import TinyWorld

FINISHING = "finishing in-flight work within 120 s; send a second signal to stop immediately"
TIMEOUT = 600.0


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start `syncclip` with these arguments in a process group of its own, with no other cluster."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "SYNCCLIP_DEBUG")}
    return subprocess.Popen(
        [sys.executable, "-m", "syncclip", "--grace", "120", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait(command: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not ready():
        assert command.poll() is None, command.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def messages(err: str) -> list[str]:
    """The lines of stderr except progress."""
    return [line for line in err.splitlines() if not line.startswith(("synth: ", "train: ", "study: "))]


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_the_command_line_handles_interrupts() -> None:
    """Typer would end silently, and Python with a traceback."""
    code = (
        "import time, syncclip\nfrom syncclip.cli import main\n"
        "syncclip.Recipe.load = lambda *_: (print('loading', flush=True), time.sleep(600))\n"
        "main(['synth', 'icons'])"
    )
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        command = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert command.stdout is not None and command.stdout.readline() == "loading\n"
        command.send_signal(number)
        out, err = command.communicate(timeout=TIMEOUT)
        assert (command.returncode, out, err) == (status, "", INTERRUPTED_MESSAGE + "\n")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_a_training_whose_processes_receive_sigterm_resumes_to_the_same_bits(
    tiny: TinyWorld, tmp_path: Path, workers: int, request: pytest.FixtureRequest
) -> None:
    values = ["training.method=ivlp", "training.data=real", "training.epochs=60", "training.log_every=1"]
    values += [f"training.workers={workers}", "training.checkpoint_every=1000"]
    broken = tmp_path / "broken"
    command = start("train", tiny.recipe, "--out", str(broken), *values)
    wait(command, lambda: count_lines(broken / "metrics.jsonl") >= 5)
    os.killpg(command.pid, signal.SIGTERM)
    _, err = command.communicate(timeout=TIMEOUT)
    assert (command.returncode, messages(err)) == (143, [FINISHING, INTERRUPTED_MESSAGE])
    record, status = (json.loads((broken / name).read_text()) for name in ("run.json", "training.json"))
    assert (record["status"], status["state"]) == ("interrupted", "interrupted")
    assert 5 <= record["steps"] == count_lines(broken / "metrics.jsonl") < 180
    assert [path.name for path in (broken / "checkpoints").glob("*.json")] == [f"step-{record['steps']:08d}.json"]
    if workers > 1:
        request.getfixturevalue("ray_cluster")
    train = jobs.train if workers > 1 else jobs.run_here
    for out in ("broken", "unbroken"):
        train(Recipe.load(tiny.recipe, values), str(tmp_path / out))
    for name in ("prompts.safetensors", "metrics.jsonl"):
        assert (broken / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


@pytest.mark.ray
@pytest.mark.slow
def test_an_interrupted_synthesis_commits_its_shards_and_leaves_no_process(tiny: TinyWorld, tmp_path: Path) -> None:
    command = start("synth", tiny.recipe, "--out", str(tmp_path), "synthesis.images_per_class=400")
    wait(command, lambda: len(list(tmp_path.glob("*_stats.json"))) >= 2)
    processes = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=TIMEOUT)
    assert (command.returncode, messages(err)) == (130, [FINISHING, INTERRUPTED_MESSAGE])
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "interrupted"
    tars, markers = ({path.name[:5] for path in tmp_path.glob(pattern)} for pattern in ("*.tar", "*_stats.json"))
    assert tars == markers and 2 <= len(markers) < 400
    assert not [item for item in processes if item.is_running() and item.status() != psutil.STATUS_ZOMBIE]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("process", [pytest.param("gcs_server", marks=pytest.mark.nightly), "raylet"])
def test_a_command_whose_ray_dies_ends_with_one_line(process: str, tiny: TinyWorld, tmp_path: Path) -> None:
    command = start("synth", tiny.recipe, "--out", str(tmp_path / process), "synthesis.images_per_class=400")
    wait(command, lambda: any((tmp_path / process).glob("*_stats.json")))
    next(child for child in psutil.Process(command.pid).children() if child.name() == process).kill()
    out, err = command.communicate(timeout=TIMEOUT)
    assert (command.returncode, out) == (1, ""), err
    (message,) = messages(err)
    assert message.startswith("syncclip: the local Ray instance ")
    assert message.endswith("run the same command to resume")
