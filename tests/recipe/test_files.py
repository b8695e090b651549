"""Sections under the names that earlier versions gave them."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.recipe.files import report_renamed
from syncclip.recipe.recipe import Recipe

SENTENCE = "the section 'benchmark' is called 'dataset' now; the old name is still read"


@pytest.fixture(autouse=True)
def nothing_reported() -> None:
    report_renamed.cache_clear()


@pytest.fixture
def old(tmp_path: Path) -> str:
    """A recipe as an earlier version wrote it."""
    path = tmp_path / "old.yaml"
    path.write_text("benchmark: {shots: 4}\ntraining: {epochs: '${benchmark.shots}'}\n")
    return str(path)


def test_a_file_and_its_interpolations_are_read_and_reported_once(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        recipe = Recipe.load(old)
    assert (recipe.dataset.shots, recipe.training.epochs) == (4, 4)
    assert capsys.readouterr().err == f"old.yaml: {SENTENCE}\n"


def test_a_recipe_of_today_extends_an_old_one_and_the_other_way_round(old: str, tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text("extends: old.yaml\ndataset: {seed: 3}\n")
    (tmp_path / "older.yaml").write_text("extends: new.yaml\nbenchmark: {shots: 2}\n")
    new, older = Recipe.load(str(tmp_path / "new.yaml")), Recipe.load(str(tmp_path / "older.yaml"))
    assert (new.dataset.shots, new.dataset.seed) == (4, 3)
    assert (older.dataset.shots, older.dataset.seed, older.training.epochs) == (2, 3, 2)


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


def test_an_override_is_read_and_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe.of_defaults(["benchmark.shots=2", "benchmark.seed=5"])
    assert (recipe.dataset.shots, recipe.dataset.seed) == (2, 5)
    assert capsys.readouterr().err == f"command line: {SENTENCE}\n"


def test_a_value_is_read_and_a_mistake_in_it_has_todays_name(old: str) -> None:
    assert Recipe.load(old).with_values({"benchmark.shots": 2}).dataset.shots == 2
    with pytest.raises(UserError, match=r"command line: dataset\.shot: no such key; did you"):
        Recipe.load(old).with_values({"benchmark.shot": 2})


def test_both_names_at_once_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text("benchmark: {shots: 4}\ndataset: {shots: 2}\n")
    with pytest.raises(UserError, match=r"both\.yaml: benchmark: no such key"):
        Recipe.load(str(path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("5", "holds a single value"),
        ("training", "holds a single value"),
        ("- training", "holds a list"),
        (".inf", "holds a single value"),
        ("extends: 5", "extends: 5 names no recipe"),
        ("extends: {icons: 1}", "extends: {'icons': 1} names no recipe"),
        ("extends: [icons, [demo]]", "extends: ['icons', ['demo']] names no recipe"),
        ("a: " + "[" * 900 + "]" * 900, "nested too deeply"),
        ("a: &a [*a]", "nested too deeply"),
        ("training: {epochs: !!int ''}", "not readable as YAML"),
        ("training: {epochs: !!bool maybe}", "not readable as YAML"),
        ("training: {epochs: !!timestamp soon}", "not readable as YAML"),
        ("training: {epochs: " + "9" * 5000 + "}", "not readable as YAML"),
        ("training: {epochs: 0x" + "f" * 9000 + "}", "not readable as YAML"),
        ("training: {epochs: " + "9" * 30 + "}", "has more digits than a number may have"),
        ("training: {? !!binary aGk= : 1}", "not readable as YAML"),
        ("training: {epochs: '" + "x" * 10**6 + "'}", "it must be a whole number"),
        ("a: ${b}\nb: ${a}", "refer to each other too deeply"),
        ("a: ${", "no viable alternative"),
        ("a0: x\n" + "".join(f"a{n + 1}: ${{a{n}}}${{a{n}}}\n" for n in range(60)), "grow by referring"),
        ("a0: [x]\n" + "".join(f"a{n + 1}: ['${{a{n}}}', '${{.0}}', '${{a{n}}}']\n" for n in range(40)), "grow by ref"),
        ("a0: x\n" + "".join(f"a{n + 1}: ${{oc.select:a{n}}}${{oc.select:a{n}}}\n" for n in range(40)), "grow by ref"),
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
