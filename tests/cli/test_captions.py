from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_app import Outcome
from tests.conftest import TinyWorld
from tests.worlds.language import build_language_model


@pytest.fixture
def recipe(tiny: TinyWorld, tmp_path: Path) -> Path:
    """The tiny world's recipe, half of its images from captions of a tiny language model."""
    model = build_language_model(tmp_path / "model")
    file = tmp_path / "captioned.yaml"
    file.write_text(
        f"""
extends: {tiny.recipe}
synthesis:
  prompts:
    strategies:
      - name: template
      - name: captions
        file: {tmp_path / "captions.json"}
        writer: {{model: {model}, instruction: "a {{}}", captions: 2, max_tokens: 6}}
    classes:
      red square: ["a {{}} of one's own"]
"""
    )
    return file


def test_captions_are_written_once_shown_and_planned(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    assert "write the captions with `syncclip captions RECIPE" in Outcome(capsys, "plan", str(recipe)).refusal

    written = Outcome(capsys, "captions", str(recipe))
    assert written.status == 0, written.err
    found = json.loads((tmp_path / "captions.json").read_text())["sentences"]
    assert len(found) == 5 and "red square" not in found
    assert found["blue square"][1] in written.out
    assert f"10 captions of 5 classes: {tmp_path / 'captions.json'}" in written.out

    before = (tmp_path / "captions.json").read_bytes()
    assert Outcome(capsys, "captions", str(recipe)).status == 0
    assert (tmp_path / "captions.json").read_bytes() == before

    planned = Outcome(capsys, "plan", str(recipe))
    assert planned.status == 0, planned.err
    for prompt in ("a photo of a blue square.", found["blue square"][0], "a red square of one's own"):
        assert prompt in planned.out


def test_a_recipe_that_wants_no_captions_is_told_how_to(capsys: pytest.CaptureFixture[str], tiny: TinyWorld) -> None:
    assert "add {name: captions, file: FILE" in Outcome(capsys, "captions", tiny.recipe).refusal


@pytest.mark.parametrize(
    ("strategies", "sentence"),
    [
        ("[{name: captions}]", "strategies[0].writer: missing; name a language model"),
        ("[{name: captions, writer: {model: m}}]", "strategies[0].file: captions need a file of their own"),
        (
            "[{name: captions, writer: {model: m}, file: a}, {name: captions, writer: {model: n}, file: a}]",
            "strategies[1].file: captions need a file of their own",
        ),
    ],
)
def test_what_is_missing_to_write_captions_is_told(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, strategies: str, sentence: str
) -> None:
    refusal = Outcome(capsys, "captions", tiny.recipe, f"synthesis.prompts.strategies={strategies}").refusal
    assert sentence in refusal
