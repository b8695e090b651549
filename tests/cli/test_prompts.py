"""`syncclip prompts`: export, import and nearest words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from syncclip import jobs, storage
from syncclip.recipe.recipe import Recipe
from tests.cli.test_app import Outcome
from tests.conftest import TinyWorld
from tests.worlds.shared import only_read

VALUES = ("training.method=ivlp", "training.data=real", "methods.ivlp.text_tokens=2", "methods.ivlp.visual_depth=2")


@pytest.fixture(scope="module")
def trained(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run of the tiny world, which tests must not change."""
    run = jobs.run_here(Recipe.load(tiny.recipe, VALUES), str(tmp_path_factory.mktemp("trained"))).url
    with only_read(run):
        yield run


@pytest.fixture(scope="module")
def published(trained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported prompts of the run."""
    from syncclip.interop.exports import export_prompts

    return Path(export_prompts(trained, str(tmp_path_factory.mktemp("published"))).url)


def test_exported_prompts_are_imported_with_the_same_results(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, trained: str, tmp_path: Path
) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    exported = Outcome(capsys, "prompts", "export", trained, "--out", str(out))
    assert exported.status == 0, exported.err
    assert exported.out.split() == [f"{out}/README.md", f"{out}/VLPromptLearner/model.pth.tar-2"]

    imported = Outcome(capsys, "prompts", "import", str(out), tiny.recipe, "training.method=ivlp", "--out", str(back))
    assert imported.status == 0, imported.err
    assert "text_tokens 2" in imported.out and "visual_depth 2" in imported.out and imported.err == ""

    evaluated = Outcome(capsys, "evaluate", str(back))
    assert evaluated.status == 0, evaluated.err
    before, after = (json.loads(storage.read_bytes(f"{run}/results.json")) for run in (trained, back))
    assert {**after, "run": before["run"]} == before


def test_show_lists_the_nearest_words_of_each_vector(capsys: pytest.CaptureFixture[str], trained: str) -> None:
    shown = Outcome(capsys, "prompts", "show", trained, "--words", "1")
    assert shown.status == 0, shown.err
    assert len([line for line in shown.out.splitlines() if "0." in line]) == 2 * 3  # vectors x blocks
    assert " a 0." in shown.out  # from the initial words


def test_an_epoch_can_be_selected(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, published: Path, tmp_path: Path
) -> None:
    arguments = ("prompts", "import", str(published), tiny.recipe, "training.method=ivlp", "--out", str(tmp_path))
    assert "no checkpoint for epoch 3; available epochs: 2" in Outcome(capsys, *arguments, "--epoch", "3").error
    assert Outcome(capsys, *arguments, "--epoch", "2").status == 0


def test_a_suspicious_checkpoint_causes_a_note(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, published: Path, tmp_path: Path
) -> None:
    content = torch.load(published / "VLPromptLearner" / "model.pth.tar-2", weights_only=True)
    content["state_dict"]["prompt_learner.token_prefix"].mul_(-1)
    torch.save(content, tmp_path / "file")
    arguments = ("prompts", "import", str(tmp_path / "file"), tiny.recipe, "training.method=ivlp")
    outcome = Outcome(capsys, *arguments, "--out", str(tmp_path / "run"))
    assert outcome.status == 0
    assert outcome.err.startswith("note: the checkpoint and backbone ")
    assert " differ in the start token: " in outcome.err
    assert outcome.err.removeprefix("note: ").strip() in (tmp_path / "run" / "run.json").read_text()
