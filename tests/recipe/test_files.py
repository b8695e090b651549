"""Recipe files: inheritance, and errors of malformed files."""

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


def test_what_a_recipe_extends_may_follow_from_the_environment(
    old: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.yaml").write_text("dataset: {shots: 8}\n")
    (tmp_path / "new.yaml").write_text("extends: ['${oc.env:SIZE}.yaml']\n")
    for size, shots in (("old", 4), ("other", 8)):
        monkeypatch.setenv("SIZE", size)
        assert Recipe.load(str(tmp_path / "new.yaml")).dataset.shots == shots
    monkeypatch.delenv("SIZE")
    with pytest.raises(UserError, match=r"new\.yaml: .*SIZE"):
        Recipe.load(str(tmp_path / "new.yaml"))


def test_an_empty_section_leaves_that_of_every_layer_below(old: str, tmp_path: Path) -> None:
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
        (
            "a0: x\n" + "".join(f"a{n + 1}: ${{a{n}}}${{a{n}}}\n" for n in range(60)),
            "too large",
        ),
        (
            "a0: [x]\n" + "".join(f"a{n + 1}: ['${{a{n}}}', '${{.0}}', '${{a{n}}}']\n" for n in range(40)),
            "too large",
        ),
        ("a0: x\n" + "".join(f"a{n + 1}: ${{oc.select:a{n}}}${{oc.select:a{n}}}\n" for n in range(40)), "too large"),
    ],
)
def test_no_text_of_a_recipe_ends_in_anything_but_a_sentence(text: str, reason: str, tmp_path: Path) -> None:
    place = tmp_path / "mine.yaml"
    place.write_text(text)
    with pytest.raises(UserError) as refused:
        Recipe.load(str(place))
    assert str(refused.value).startswith("mine.yaml") and reason in str(refused.value)
    assert len(str(refused.value)) <= 2000


@pytest.mark.parametrize(
    "value",
    [
        "[" * 900 + "]" * 900,
        "!!bool x",
        "9" * 5000,
        "9" * 30,
        "0x" + "f" * 9000,
        "&a [*a]",
        "${",
        "${x}",
        "\x1b",
        "{}: 1",
    ],
)
def test_no_value_of_an_override_ends_in_anything_but_a_sentence(value: str) -> None:
    with pytest.raises(UserError, match=r"^command line: training\.epochs") as refused:
        Recipe.of_defaults([f"training.epochs={value}"])
    assert len(str(refused.value)) <= 500
