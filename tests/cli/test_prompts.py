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

NAMED = ("training.method=ivlp", "training.data=real", "methods.ivlp.text_tokens=2", "methods.ivlp.visual_depth=2")


@pytest.fixture(scope="module")
def trained(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run of the tiny world, made without Ray; tests only read it."""
    run = jobs.run_here(Recipe.load(tiny.recipe, NAMED), str(tmp_path_factory.mktemp("trained"))).url
    with only_read(run):
        yield run


@pytest.fixture(scope="module")
def published(trained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `export` writes of it."""
    from syncclip.interop.exports import export_prompts

    return Path(export_prompts(trained, str(tmp_path_factory.mktemp("published"))).url)


def test_a_run_goes_out_comes_back_and_is_evaluated_alike(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, trained: str, tmp_path: Path
) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    exported = Outcome(capsys, "prompts", "export", trained, "--out", str(out))
    assert exported.status == 0, exported.err
    assert exported.out.split() == [f"{out}/README.md", f"{out}/VLPromptLearner/model.pth.tar-2"]

    imported = Outcome(capsys, "prompts", "import", str(out), tiny.recipe, "training.method=ivlp", "--out", str(back))
    assert imported.status == 0, imported.err
    assert "text_tokens 2" in imported.out
    assert "visual_depth 2" in imported.out
    assert imported.err == ""

    evaluated = Outcome(capsys, "evaluate", str(back))
    assert evaluated.status == 0, evaluated.err
    before, after = (json.loads(storage.read_bytes(f"{run}/results.json")) for run in (trained, back))
    assert {**after, "run": before["run"]} == before


def test_show_tells_the_words_near_each_vector(capsys: pytest.CaptureFixture[str], trained: str) -> None:
    shown = Outcome(capsys, "prompts", "show", trained, "--words", "1")
    assert shown.status == 0, shown.err
    assert len([line for line in shown.out.splitlines() if "0." in line]) == 2 * 3, "vectors times blocks"
    assert " a 0." in shown.out, "where the phrase began and two epochs didn't lead far"


def test_an_epoch_can_be_chosen(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, published: Path, tmp_path: Path
) -> None:
    arguments = ("prompts", "import", str(published), tiny.recipe, "training.method=ivlp", "--out", str(tmp_path))
    assert "no checkpoint of epoch 3; there are epochs 2" in Outcome(capsys, *arguments, "--epoch", "3").error
    assert Outcome(capsys, *arguments, "--epoch", "2").status == 0


def test_what_looks_wrong_is_told_and_noted(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, published: Path, tmp_path: Path
) -> None:
    content = torch.load(published / "VLPromptLearner" / "model.pth.tar-2", weights_only=True)
    content["state_dict"]["prompt_learner.token_prefix"].mul_(-1)
    torch.save(content, tmp_path / "file")
    arguments = ("prompts", "import", str(tmp_path / "file"), tiny.recipe, "training.method=ivlp")
    outcome = Outcome(capsys, *arguments, "--out", str(tmp_path / "run"))
    assert outcome.status == 0
    assert outcome.err.startswith("note: the start token of the checkpoint differs from that of backbone")
    assert outcome.err.removeprefix("note: ").strip() in (tmp_path / "run" / "run.json").read_text()


def test_a_folder_without_a_run_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("export", "show"):
        assert "no run found" in Outcome(capsys, "prompts", command, str(tmp_path)).error


def test_an_unknown_command_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert Outcome(capsys, "prompts", "exprot").error == (
        "there is no command 'exprot'; did you mean 'prompts export'?"
    )
