"""`syncclip reproduce` and `syncclip evaluate --dataset`, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip import jobs
from syncclip.cli import app
from syncclip.recipe.recipe import Recipe
from tests.conftest import TinyWorld
from tests.worlds.literature import Miniatures


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which a command is refused."""
    assert app.run(list(arguments)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_mistakes_are_told_in_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "missing option '--root'" in refusal(capsys, "reproduce", "few-shot")
    assert "did you mean 'few-shot'?" in refusal(capsys, "reproduce", "fewshot", "--root", str(tmp_path))
    assert "did you mean 'base-to-novel'?" in refusal(capsys, "reproduce", "base", "--root", str(tmp_path))
    assert "datasets can't be read" in refusal(capsys, "reproduce", "few-shot", "--root", str(tmp_path))
    assert "did you mean 'epochs'?" in refusal(
        capsys, "reproduce", "few-shot", "training.epoch=1", "--root", str(tmp_path)
    )


def test_a_run_is_tested_on_another_dataset(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path
) -> None:
    jobs.run_here(Recipe.load(tiny.recipe, ["training.method=zeroshot", "training.data=real"]), str(tmp_path))
    assert app.run(["evaluate", str(tmp_path), "--dataset", "dtd", "--root", str(miniatures.root)]) == 0
    assert "zeroshot-real-seed1: accuracy on test images of dtd, %" in capsys.readouterr().out
    assert (tmp_path / "transfer" / "dtd" / "results.json").is_file()
