"""Rows of a part that dies or reaches its time limit are kept; without a GPU all parts are skipped."""

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


def replace_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Replace the process of a part by a shell script, whose fifth argument is the file of the rows."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_rows_of_a_process_that_dies_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_process(tmp_path, monkeypatch, """echo '{"what": "plain", "images_s": 1.5}' >> "$5"; exit 3""")
    plain, *others = command.measure("sdxl", 600)
    assert plain == {"what": "plain", "images_s": 1.5}
    assert [row["what"] for row in others] == ["exact", "fast", "max", "plain again"]
    assert {row["left_out"] for row in others} == {"exit status 3"}


def test_a_part_and_its_children_end_at_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    script = f"sleep 600 & echo $! > {started}.part; mv {started}.part {started}; wait"
    replace_process(tmp_path, monkeypatch, script)
    wait, limits = subprocess.Popen.wait, []

    def once_started(child: subprocess.Popen[bytes], limit: float | None = None) -> int:
        while not started.exists():  # on a busy machine later than the limit
            time.sleep(0.01)
        limits.append(limit)
        return wait(child, limit)

    monkeypatch.setattr(subprocess.Popen, "wait", once_started)
    rows = command.measure("set", 0.1)
    assert limits[0] == 0.1
    sleeper = int(started.read_text())
    while psutil.pid_exists(sleeper) and psutil.Process(sleeper).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert {row["left_out"] for row in rows} == {"time limit of 0.1 s"}
    assert [row["what"] for row in rows] == list(command.PARTS["set"][0])


def test_without_a_gpu_all_parts_are_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    import typer

    app = typer.Typer()
    app.command()(command.main)
    outcome = CliRunner().invoke(app, ["--out", str(tmp_path)])
    assert outcome.exit_code == 0 and not list(tmp_path.iterdir())
    first, *lines = outcome.output.splitlines()
    assert first == "No GPU found; skipped:"
    assert [line.split(":")[0].strip() for line in lines] == list(command.PARTS)
    assert "  flux: plain; exact; fast; max; plain again" in lines


def test_results_are_kept_by_device_and_by_part(tmp_path: Path) -> None:
    facts = {"device": "NVIDIA H100 80GB HBM3", "memory_gb": 85.0, "date": "2026-01-01", "python": "3.11"}
    for part in ("sdxl", "flux"):
        rows = [{"what": "plain", "left_out": "no time"}]
        command.write({**facts, "price": None, "versions": {}, "parts": {part: rows}}, tmp_path)
    name = "nvidia-h100-80gb-hbm3"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.json", f"{name}.md"]
    assert list(json.loads((tmp_path / f"{name}.json").read_text())["parts"]) == ["sdxl", "flux"]


def test_the_time_limits_sum_to_at_most_nine_minutes() -> None:
    assert sum(limit for _, limit in command.PARTS.values()) <= 9 * 60
