"""`syncclip recipe`: ls, show, explain, schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from syncclip.cli.app import run
from syncclip.recipe.recipe import Recipe


def test_shipped_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "ls"]) == 0
    names = capsys.readouterr().out.split()
    assert {"travel", "icons", "studies/gap", "datasets/dtd"} <= set(names)


def test_a_shown_recipe_can_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "show", "travel", "training.epochs=3"]) == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(capsys.readouterr().out)
    assert yaml.safe_load(shown.read_text())["training"]["momentum"] == 0.9
    assert Recipe.load(str(shown)) == Recipe.load("travel", ["training.epochs=3"])


def test_a_key_is_explained_and_an_unknown_one_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "explain", "methods.syncclip.domain_tokens"]) == 0
    first, meaning = capsys.readouterr().out.splitlines()
    assert first == "methods.syncclip.domain_tokens: integer ≥ 0 and ≤ 1024; default 2"
    assert (
        meaning == "    Number of domain-specific visual tokens (k in the paper); 0 shares all tokens between domains."
    )

    assert run(["recipe", "explain", "training.epoch"]) == 2
    assert capsys.readouterr().err == "syncclip: unknown key 'training.epoch'; did you mean 'training.epochs'?\n"


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["training"]["description"].startswith("Training: ")
