"""`syncclip status` of sets, runs and other folders."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from syncclip import storage
from syncclip.cli.app import run
from syncclip.storage import status_file
from syncclip.storage.status_file import keep_status_file
from syncclip.synthesis.status import STATUS_NAME, SynthesisStatus
from syncclip.training.run_folder import RunRecord


def test_a_set_and_its_parent_folder_have_the_same_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_file, "time", SimpleNamespace(time=lambda: 1000.0))
    status = SynthesisStatus.begin(planned=96, images=96, most=1)
    with keep_status_file(str(tmp_path / "synthetic" / STATUS_NAME), status, clock=lambda: 1000.0):
        pass
    reported = []
    for folder in (tmp_path, tmp_path / "synthetic"):
        assert run(["status", str(folder)]) == 0
        reported.append(capsys.readouterr().out)
    assert reported[0] == reported[1]
    assert "complete: 96 of 96 images" in reported[0] and "last heartbeat: 0 s ago" in reported[0]


def test_the_status_of_a_failed_run_contains_its_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = RunRecord(name="run", recipe_hash="0", status="failed", steps=7, total_steps=20, error="no space left")
    storage.write_document(str(tmp_path / "run.json"), record)
    assert run(["status", str(tmp_path)]) == 0
    reported = capsys.readouterr().out
    assert "failed: 7 of 20 steps" in reported and "why: no space left" in reported


def test_another_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", str(tmp_path)]) == 2
    assert "neither a synthetic dataset nor a run" in capsys.readouterr().err
