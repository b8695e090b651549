"""Commands that are interrupted, or lose their Ray, as a user runs them: processes of their own, and signals."""

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

from syncclip.runtime.shutdown import INTERRUPTED_MESSAGE
from tests.conftest import TinyWorld

FINISHING = "finishing in-flight work, within 120 s; a second signal ends it at once"
LIMIT = 600.0


def begin(*arguments: str) -> subprocess.Popen[str]:
    """`syncclip` with these arguments, in a group of its own and with no other cluster."""
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
    deadline = time.monotonic() + LIMIT
    while not ready():
        assert command.poll() is None, command.communicate()
        assert time.monotonic() < deadline, "it is not ready after minutes"
        time.sleep(0.02)


def said(err: str) -> list[str]:
    """What is written to stderr but progress."""
    return [line for line in err.splitlines() if not line.startswith(("synth: ", "train: ", "study: "))]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_an_interrupt_gets_through_the_command_line(tmp_path: Path) -> None:
    """Typer would end quietly, and Python with a traceback."""
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
        out, err = command.communicate(timeout=LIMIT)
        assert (command.returncode, out, err) == (status, "", INTERRUPTED_MESSAGE + "\n")


@pytest.mark.ray
@pytest.mark.slow
def test_a_training_that_all_its_processes_are_told_to_end_goes_on_to_the_same_bits(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    values = ["training.method=ivlp", "training.data=real", "training.epochs=100", "training.log_every=1"]
    values += ["training.workers=2", "training.checkpoint_every=1000"]
    broken = tmp_path / "broken"
    command = begin("train", tiny.recipe, "--out", str(broken), *values)
    wait(command, lambda: lines(broken / "metrics.jsonl") >= 5)
    os.killpg(command.pid, signal.SIGTERM)
    _, err = command.communicate(timeout=LIMIT)
    assert (command.returncode, said(err)) == (143, [FINISHING, INTERRUPTED_MESSAGE])
    record, status = (json.loads((broken / name).read_text()) for name in ("run.json", "training.json"))
    assert (record["status"], status["state"]) == ("interrupted", "interrupted")
    assert 5 <= record["steps"] == lines(broken / "metrics.jsonl") < 300
    assert [path.name for path in (broken / "checkpoints").glob("*.json")] == [f"step-{record['steps']:08d}.json"]
    for out in ("broken", "unbroken"):
        again = begin("train", tiny.recipe, "--out", str(tmp_path / out), *values)
        assert again.wait(LIMIT) == 0, again.communicate()
        again.communicate()
    for name in ("prompts.safetensors", "metrics.jsonl"):
        assert (broken / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


@pytest.mark.ray
@pytest.mark.slow
def test_a_synthesis_that_is_told_to_end_commits_what_it_has_begun_and_leaves_nothing(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    command = begin("synth", tiny.recipe, "--out", str(tmp_path), "synthesis.images_per_class=400")
    wait(command, lambda: len(list(tmp_path.glob("*_stats.json"))) >= 2)
    family = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=LIMIT)
    assert (command.returncode, said(err)) == (130, [FINISHING, INTERRUPTED_MESSAGE])
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "interrupted"
    tars, markers = ({path.name[:5] for path in tmp_path.glob(kind)} for kind in ("*.tar", "*_stats.json"))
    assert tars == markers and 2 <= len(markers) < 400
    assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
def test_a_ray_that_dies_under_a_command_ends_it_with_one_sentence(part: str, tiny: TinyWorld, tmp_path: Path) -> None:
    command = begin("synth", tiny.recipe, "--out", str(tmp_path / part), "synthesis.images_per_class=400")
    wait(command, lambda: any((tmp_path / part).glob("*_stats.json")))
    next(child for child in psutil.Process(command.pid).children() if child.name() == part).kill()
    out, err = command.communicate(timeout=LIMIT)
    assert (command.returncode, out) == (1, ""), err
    (sentence,) = said(err)
    assert sentence.startswith("syncclip: this machine's Ray ")
    assert sentence.endswith("run the same command to resume")
