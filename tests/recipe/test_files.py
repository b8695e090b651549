"""Recipe files: inheritance, and errors of malformed files and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe


@pytest.fixture
def old(tmp_path: Path) -> str:
    """A recipe with an interpolation."""
    path = tmp_path / "old.yaml"
    path.write_text("dataset: {shots: 4}\ntraining: {epochs: '${dataset.shots}'}\n")
    return str(path)


def test_extends_may_contain_environment_variables(old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.yaml").write_text("dataset: {shots: 8}\n")
    (tmp_path / "new.yaml").write_text("extends: ['${oc.env:SIZE}.yaml']\n")
    for size, shots in (("old", 4), ("other", 8)):
        monkeypatch.setenv("SIZE", size)
        assert Recipe.load(str(tmp_path / "new.yaml")).dataset.shots == shots
    monkeypatch.delenv("SIZE")
    with pytest.raises(UserError, match=r"new\.yaml: .*SIZE"):
        Recipe.load(str(tmp_path / "new.yaml"))


def test_an_empty_section_keeps_the_inherited_one(old: str, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("extends: old.yaml\ndataset:\ntraining:\n")
    (tmp_path / "last.yaml").write_text("extends: empty.yaml\nstudy:\n")
    recipe = Recipe.load(str(tmp_path / "last.yaml"))
    assert (recipe.dataset.shots, recipe.training.epochs) == (4, 4)
    (tmp_path / "alone.yaml").write_text("training:\n")
    assert Recipe.load(str(tmp_path / "alone.yaml"), base=old).training.epochs == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("5", "contains a single value"),
        ("training", "contains a single value"),
        ("- training", "contains a list"),
        (".inf", "contains a single value"),
        ("extends: 5", "extends: 5 is not a recipe"),
        ("extends: {icons: 1}", "extends: {'icons': 1} is not a recipe"),
        ("extends: [icons, [demo]]", "extends: ['icons', ['demo']] is not a recipe"),
        ("a: " + "[" * 900 + "]" * 900, "nested too deeply"),
        ("a: &a [*a]", "nested too deeply"),
        ("training: {epochs: !!int ''}", "not readable as YAML"),
        ("training: {epochs: !!bool maybe}", "not readable as YAML"),
        ("training: {epochs: !!timestamp soon}", "not readable as YAML"),
        ("training: {epochs: " + "9" * 5000 + "}", "not readable as YAML"),
        ("training: {epochs: 0x" + "f" * 9000 + "}", "not readable as YAML"),
        ("training: {epochs: " + "9" * 30 + "}", "has too many digits"),
        ("training: {? !!binary aGk= : 1}", "not readable as YAML"),
        ("training: {epochs: '" + "x" * 10**6 + "'}", "it must be a whole number"),
        ("a: ${b}\nb: ${a}", "nested too deeply"),
        ("a: ${", "no viable alternative"),
        ("a0: x\n" + "".join(f"a{n + 1}: ${{a{n}}}${{a{n}}}\n" for n in range(60)), "too large"),
        (
            "a0: [x]\n" + "".join(f"a{n + 1}: ['${{a{n}}}', '${{.0}}', '${{a{n}}}']\n" for n in range(40)),
            "too large",
        ),
        ("a0: x\n" + "".join(f"a{n + 1}: ${{oc.select:a{n}}}${{oc.select:a{n}}}\n" for n in range(40)), "too large"),
    ],
)
def test_a_malformed_recipe_is_a_user_error(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        Recipe.load(str(tmp_path / "mine.yaml"))
    error = str(raised.value)
    assert error.startswith("mine.yaml") and reason in error and len(error) <= 2000


def test_a_malformed_override_is_a_user_error() -> None:
    nested, numbers = "[" * 900 + "]" * 900, ("9" * 5000, "9" * 30, "0x" + "f" * 9000)
    for value in (nested, *numbers, "!!bool x", "&a [*a]", "${", "${x}", "\x1b", "{}: 1"):
        with pytest.raises(UserError, match=r"^command line: training\.epochs") as raised:
            Recipe.of_defaults([f"training.epochs={value}"])
        assert len(str(raised.value)) <= 500
