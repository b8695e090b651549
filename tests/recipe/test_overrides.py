"""Overrides: values are parsed by the type of their key."""

from __future__ import annotations

import pytest

from syncclip.core.settings import UserError
from syncclip.recipe.overrides import as_override, split_overrides
from syncclip.recipe.recipe import Recipe
from syncclip.studies.cells import check_configurations


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("dataset.template", "{} texture."),
        ("dataset.template", "a photo: {}"),
        ("methods.kgcoop.initial_words", "no"),
        ("methods.coop.initial_words", ""),
        ("methods.coop.initial_words", "null"),
        ("dataset.name", "1e5"),
        ("dataset.root", "~"),
        ("dataset.root", "#data [1]"),
        ("training.tracking_project", "2024-01-01"),
        ("training.synthetic", "off"),
        ("training.synthetic", "sets/a: b # c"),
        ("training.synthetic", "{a: 1}"),
        ("training.real.0.url", "yes"),
        ("study.configurations.1.method", "on"),
        ("study.configurations.1.overrides.methods.kgcoop.initial_words", "off"),
        ("synthesis.generator.batch_size", "on"),
    ],
)
def test_the_value_of_a_text_key_is_the_text_itself(key: str, text: str) -> None:
    assert split_overrides([f"{key}={text}"], Recipe) == {key: text}
    assert as_override(key, text, Recipe) == f"{key}={text}"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("dataset.template=null", None),
        ("training.synthetic=null", None),
        ("training.synthetic=[a, {url: b}]", ["a", {"url": "b"}]),
        ("training.keep_best=null", None),
        ("dataset.base=[0, cat]", [0, "cat"]),
        ("dataset.classnames=[a b, c]", ["a b", "c"]),
        ("synthesis.generator.batch_size=8", 8),
        ("synthesis.actors={actors: 2}", {"actors": 2}),
        ("methods.ivlp.learning_rate=1e-3", 0.001),
        ("storage.options.anon=true", True),
        ("methods.custom.margin=0.5", 0.5),
        ("study.configurations.1.search_space.training.epochs=[1, 2]", [1, 2]),
        ("study.configurations.1.overrides.training.epochs=3", 3),
    ],
)
def test_values_of_other_types_are_yaml(override: str, value: object) -> None:
    assert list(split_overrides([override], Recipe).values()) == [value]


@pytest.mark.parametrize("text", ["no", "a: b", "'quoted'", "null", "[1", ""])
def test_a_text_for_a_key_of_any_type_is_restored(text: str) -> None:
    assert split_overrides([as_override("methods.custom.initial_words", text, Recipe)], Recipe) == {
        "methods.custom.initial_words": text
    }


@pytest.mark.parametrize(("section", "value"), [("overrides", 7), ("search_space", [7, 8])])
def test_values_of_a_configuration_have_dotted_keys(section: str, value: object) -> None:
    override = f"study.configurations.1.{section}.training.epochs={value}"
    values = getattr(Recipe.load("icons", [override]).study.configurations[1], section)
    assert values["training.epochs"] == value and "training" not in values


def test_a_yaml_boolean_instead_of_a_text_is_an_error() -> None:
    key = "methods.kgcoop.initial_words"
    for values in (f"overrides: {{{key}: no}}", f"search_space: {{{key}: [no, yes]}}"):
        with pytest.raises(UserError, match=rf"{key}: False is not allowed; .*quote it in YAML"):
            check_configurations(Recipe.load("icons", [f"study.configurations=[{{method: kgcoop, {values}}}]"]))
    with pytest.raises(UserError, match=r"dataset\.base"):
        Recipe.load("icons", ["dataset.base=[no, yes]"])
