"""Recipes in the README and in the guide to methods, and commands, paths and make targets in the README are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from syncclip.cli.app import app
from syncclip.recipe.recipe import Recipe
from syncclip.studies.run import folder_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHOICE = (ROOT / "docs" / "choosing-a-method.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", README + CHOICE, re.DOTALL))
def test_recipes_are_valid(text: str, tmp_path: Path) -> None:
    file = tmp_path / "birds.yaml"
    file.write_text(text)
    assert Recipe.load(str(file)).name == "birds"


def test_study_in_the_choice_of_a_method_compares_each_method_with_its_baselines(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", CHOICE, re.DOTALL)
    (file := tmp_path / "birds.yaml").write_text(text)
    study = Recipe.load(str(file)).study
    for method in {each.method for each in study.configurations if each.data == "both" and each.trained} - {"syncclip"}:
        assert {(f"{method}-both", baseline) for baseline in ("zeroshot", f"{method}-real")} <= {*study.compare}
    assert study.reference_configuration.name == study.reference == "syncclip-vectors"


def test_the_table_of_commands_is_complete() -> None:
    commands = getattr(get_command(app), "commands", {})
    visible = {name for name, command in commands.items() if not command.hidden}
    assert set(re.findall(r"^\| `syncclip (\w+)", README, re.MULTILINE)) == visible


def test_the_path_of_the_demos_report_is_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    folder = Path(folder_of(Recipe.load("demo"))).relative_to(ROOT)
    assert re.findall(r"`(\S+/report\.html)`", README) == [f"{folder}/report.html"]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make (\w+)", README, re.MULTILINE)) <= targets
