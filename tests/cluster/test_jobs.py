"""`syncclip submit` to a real head of this machine: the same bytes, nothing twice, stopped and resumed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syncclip import cli, jobs, submission
from syncclip.recipe import Recipe
from tests.conftest import TinyWorld
from tests.ray_head import PATIENCE
from tests.test_ray_jobs import files, head

__all__ = ["head"]

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The head of these tests asks for none."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    yield


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit status of a command, and all that it said."""
    capsys.readouterr()
    status = cli.run([*arguments])
    said = capsys.readouterr()
    return status, said.out + said.err


def shards_drawn(folder: Path) -> dict[str, int]:
    """Name -> time of writing of each tar: drawn again, it would be another."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}


def test_synth_and_train_give_the_local_bytes_and_twice_draws_nothing_twice(
    head: str, tiny: TinyWorld, tiny_set: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far, near = tmp_path / "far", tmp_path / "near"
    submit = ("submit", "--address", head, "--out", str(far))

    status, log = told(capsys, *submit, "synth", tiny.recipe)
    assert status == 0, log
    assert files(far, "*.tar", "*.parquet", "plan.json") == files(tiny_set, "*.tar", "*.parquet", "plan.json")

    before = shards_drawn(far)
    status, log = told(capsys, *submit, "synth", tiny.recipe)
    assert status == 0, log
    assert "-2 is submitted" in log
    assert "are there already" in log
    assert shards_drawn(far) == before

    status, log = told(capsys, *submit, "train", tiny.recipe)
    assert status == 0, log
    jobs.run_here(Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}"]), str(near))
    outcome = ("prompts.safetensors", "metrics.jsonl", "results.json")
    assert files(far, *outcome) == files(near, *outcome)


def test_a_job_that_fails_ends_with_its_reason_and_its_status(
    head: str, tiny: TinyWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, log = told(capsys, "submit", "--address", head, "--out", str(tmp_path / "none"), "train", tiny.recipe)

    assert status == 2
    assert "failed with exit status 2: there is no synthetic set in" in log.splitlines()[-1]
    assert "Traceback" not in log


@pytest.mark.fault
def test_a_stopped_job_goes_on_to_the_same_bytes(
    head: str, tiny: TinyWorld, tiny_set: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "set"
    submit = ("submit", "--address", head, "--out", str(out), "synth", tiny.recipe)
    status, log = told(capsys, *submit, "--no-wait")
    assert status == 0, log
    client: Any = submission.connect(head)
    name = next(word for word in log.split() if word.startswith("syncclip-synth"))
    _wait(lambda: str(client.get_job_status(name)) != "PENDING")

    client.stop_job(name)
    _wait(lambda: client.get_job_status(name).is_terminal())
    status, log = told(capsys, *submit)

    assert status == 0, log
    assert f"{name}-2 is submitted" in log
    assert files(out, "*.tar", "*.parquet", "plan.json") == files(tiny_set, "*.tar", "*.parquet", "plan.json")


def _wait(there: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.2)
