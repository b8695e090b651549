"""A part that takes too long or dies leaves what it had measured; without a GPU all is said to be left out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from typer.testing import CliRunner

from benchmarks.gpu import __main__ as command

pytestmark = pytest.mark.nightly


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell script, whose fifth argument is the file of the rows, take the place of a part's process."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_rows_of_a_process_that_dies_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, """echo '{"what": "plain", "images_s": 1.5}' >> "$5"; exit 3""")
    plain, *others = command.measure("sdxl", 600)
    assert plain == {"what": "plain", "images_s": 1.5}
    assert [row["what"] for row in others] == ["exact", "fast", "max", "plain again"]
    assert {row["left_out"] for row in others} == {"its process ended with 3"}


def test_a_part_ends_at_its_limit_with_all_that_it_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    stand_in(tmp_path, monkeypatch, f"sleep 600 & echo $! > {started}.part; mv {started}.part {started}; wait")
    wait, limits = subprocess.Popen.wait, []

    def once_started(child: subprocess.Popen[bytes], limit: float | None = None) -> int:
        while not started.exists():  # on a busy machine later than the limit
            time.sleep(0.01)
        limits.append(limit)
        return wait(child, limit)

    monkeypatch.setattr(subprocess.Popen, "wait", once_started)
    found = command.measure("set", 0.1)
    assert limits[0] == 0.1
    sleeper = int(started.read_text())
    while psutil.pid_exists(sleeper) and psutil.Process(sleeper).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert {row["left_out"] for row in found} == {"its part's 0.1 seconds were over"}
    assert [row["what"] for row in found] == list(command.PARTS["set"][0])


def test_without_a_gpu_each_figure_is_said_to_be_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    import typer

    app = typer.Typer()
    app.command()(command.main)
    outcome = CliRunner().invoke(app, ["--out", str(tmp_path)])
    assert outcome.exit_code == 0 and not list(tmp_path.iterdir())
    first, *lines = outcome.output.splitlines()
    assert first == "There is no GPU here, so these figures are left out:"
    assert [line.split(":")[0].strip() for line in lines] == list(command.PARTS)
    assert "  flux: plain; exact; fast; max; plain again" in lines


def test_results_are_kept_by_device_and_by_part(tmp_path: Path) -> None:
    facts = {
        "device": "NVIDIA H100 80GB HBM3",
        "memory_gb": 85.0,
        "date": "2026-01-01",
        "python": "3.11",
        "price": None,
    }
    for part in ("sdxl", "flux"):
        rows = [{"what": "plain", "left_out": "no time"}]
        command.write({**facts, "versions": {}, "parts": {part: rows}}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "nvidia-h100-80gb-hbm3.json",
        "nvidia-h100-80gb-hbm3.md",
    ]
    assert list(json.loads((tmp_path / "nvidia-h100-80gb-hbm3.json").read_text())["parts"]) == ["sdxl", "flux"]


def test_the_limits_fit_into_nine_minutes_and_no_part_into_more_than_three() -> None:
    limits = [limit for _, limit in command.PARTS.values()]
    assert max(limits) <= 180 and sum(limits) <= 9 * 60
