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


def test_a_last_part_lists_the_setting_of_all_methods_at_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "explain", "learning_rate"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    cells = [[cell.strip() for cell in line.split("│")[1:3]] for line in shown.splitlines() if "│" in line]
    listed = dict(cell for cell in cells if cell[0])
    recipe = Recipe()
    methods = [name for name in type(recipe.methods).model_fields if name != "custom"]
    assert {name: float(listed[f"methods.{name}.learning_rate"]) for name in methods} == {
        name: recipe.methods.of(name).learning_rate for name in methods
    }
    assert "Peak Adam learning rate" in shown
    assert run(["recipe", "explain", "seed"]) == 0  # also of list items, whose keys are long
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80 and all(key in shown for key in ("dataset.seed", "training.seed"))


def test_a_synonym_is_an_error_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "explain", "lr"]) == 2
    assert capsys.readouterr().err.endswith("unknown key 'lr'; did you mean 'methods.syncclip.learning_rate'?\n")


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["training"]["description"].startswith("Training: ")
