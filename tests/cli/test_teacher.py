"""The command `teacher`: it says what a recipe names the files by, and how many images it could not read."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip.inference import soft_labels
from syncclip.inference.passes import Passed
from syncclip.workers.settings import Pool
from tests.cli.test_app import Outcome


def test_its_arguments_become_one_call_and_its_result_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        soft_labels, "write_soft_labels", lambda *a, **named: asked.append((a, named)) or Passed("files", 2, 12, 1)
    )
    found = Outcome(capsys, "teacher", "runs/teacher", "set", "--actors", "3", "--num-gpus", "0.5", "--batch", "8")
    assert (found.status, found.out) == (0, "12 images of 2 shards: training.teacher=files\n")
    assert "1 image could not be read; training uses other images instead" in found.err
    places = {"backbone": None, "pretrained": None}
    assert asked == [(("runs/teacher", "set", None), {"batch": 8, "pool": Pool(3, num_gpus=0.5), "places": places})]


def test_a_run_that_is_not_there_is_a_mistake(
    capsys: pytest.CaptureFixture[str], tiny_set: str, tmp_path: Path
) -> None:
    found = Outcome(capsys, "teacher", str(tmp_path / "gone"), tiny_set, "--out", str(tmp_path / "out"))
    assert found.status == 2 and "gone: no run found; train one" in found.err
    assert not (tmp_path / "out").exists()
