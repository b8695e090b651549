"""What `syncclip status` tells of a folder."""

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


def test_a_set_and_the_folder_around_it_tell_the_same(
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
    assert "complete: 96 of 96 images" in reported[0] and "last sign of life: 0 s ago" in reported[0]


def test_a_run_tells_its_steps_and_why_it_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = RunRecord(name="run", recipe_hash="0", status="failed", steps=7, total_steps=20, error="no space left")
    storage.write_document(str(tmp_path / "run.json"), record)
    assert run(["status", str(tmp_path)]) == 0
    reported = capsys.readouterr().out
    assert "failed: 7 of 20 steps" in reported and "why: no space left" in reported


def test_a_folder_of_neither_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", str(tmp_path)]) == 2
    assert "neither a set nor a run" in capsys.readouterr().err
