from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.prompts.settings import (
    OWN,
    PromptSettings,
    check_classes,
    coverage,
    prompt_of,
    prompts_of,
    samples,
    turn_of,
)
from tests.synthesis.prompts import CLASSES, EVERYTHING


def test_the_datasets_template_is_used_where_none_is_given() -> None:
    assert prompt_of(PromptSettings(), "a photo of a {}.", "cat", 5) == "a photo of a cat."


def test_templates_are_taken_in_turn() -> None:
    settings = PromptSettings(templates=("a {}", "the {}"))
    assert [prompt_of(settings, "unused {}", "cat", image) for image in range(4)] == ["a cat", "the cat"] * 2


def test_braces_in_a_class_name_stay_as_they_are() -> None:
    assert prompt_of(PromptSettings(), "a {}", "set {x}", 0) == "a set {x}"
    assert prompts_of(PromptSettings(), "a {}", ["set {}"], 0) == ["a set {}"]


def test_strategies_are_mixed_by_their_weights_and_each_goes_through_its_own_sentences() -> None:
    settings = PromptSettings.model_validate(
        {
            "strategies": [
                {"name": "template", "weight": 2},
                {"name": "descriptions", "sentences": {"cat": ["a {} asleep", "whiskers"]}},
            ]
        }
    )
    generated = [prompt_of(settings, "a {}", "cat", image) for image in range(6)]
    assert generated == ["a cat", "a cat asleep", "a cat", "a cat", "whiskers", "a cat"]
    assert coverage(settings, "a {}", ["cat"], 3).by_strategy == {"template": 2, "descriptions": 1}


def test_a_class_can_have_its_own_sentences_instead() -> None:
    settings = PromptSettings(classes={"crane": ("a {}, the bird", "a bird on one leg")})
    assert [prompt_of(settings, "a {}", "crane", image) for image in range(3)] == [
        "a crane, the bird",
        "a bird on one leg",
        "a crane, the bird",
    ]
    assert prompt_of(settings, "a {}", "cat", 0) == "a cat"
    assert coverage(settings, "a {}", ["crane", "cat"], 8).by_strategy == {"own": 8, "template": 8}


@given(st.integers(0, 50))
def test_the_prompts_of_all_classes_are_those_of_each(image: int) -> None:
    for settings in (EVERYTHING, PromptSettings(), PromptSettings(templates=("a {}", "the {}"))):
        every = prompts_of(settings, "{} or {}", CLASSES, image)
        assert every == [prompt_of(settings, "{} or {}", name, image) for name in CLASSES]


def test_strategies_of_one_kind_are_reported_apart_by_numbers() -> None:
    two = [{"name": "template"}, {"name": "template", "templates": ["the {}"]}]
    assert PromptSettings.model_validate({"strategies": two}).labels == ("template 1", "template 2")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"templates": ["a photo"]}, "exactly once"),
        ({"templates": ["a {} and a {}"]}, "exactly once"),
        ({"templates": ["a {}"], "strategies": [{"name": "template"}]}, "exclude each other"),
        ({"strategies": [{"name": "template", "weight": 0}]}, "the weights of all strategies are 0"),
        ({"classes": {"cat": []}}, "at least 1 item"),
    ],
)
def test_invalid_settings_are_errors(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as failure:
        PromptSettings.model_validate(given)
    assert sentence in str(failure.value)


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        ("{name: captoins}", "synthesis.prompts.strategies[0].name: there is no 'captoins'; did you mean 'captions'?"),
        (
            "{name: template, weight: -1}",
            "synthesis.prompts.strategies[0].weight: -1 is not allowed; it must be at least 0",
        ),
        ("{templates: [a]}", "synthesis.prompts.strategies[0]: a 'name' is missing"),
        (
            "{name: template, templates: [a photo]}",
            "strategies[0].templates[0]: the template 'a photo' must contain {}",
        ),
    ],
)
def test_a_recipe_is_a_one_line_error(strategy: str, sentence: str) -> None:
    with pytest.raises(UserError) as failure:
        Recipe.load("icons", [f"synthesis.prompts.strategies=[{strategy}]"])
    assert sentence in str(failure.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"classes": {"cta": ["a cat"]}},
            "prompts.classes: 'cta' is no class of dataset 'pets'; did you mean 'cat'?",
        ),
        (
            {"strategies": [{"name": "descriptions", "sentences": {"cat": ["a cat"]}}]},
            "strategies[0] (descriptions) has no sentence for class 'dog' and 1 more",
        ),
        (
            {"strategies": [{"name": "descriptions", "sentences": {name: ["a"] for name in (*CLASSES, "cow")}}]},
            "strategies[0] (descriptions): 'cow' is no class",
        ),
    ],
)
def test_missing_and_unknown_classes_are_reported(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as failure:
        check_classes(PromptSettings.model_validate(settings), CLASSES, "pets")
    assert sentence in str(failure.value)


def test_a_class_with_its_own_sentences_needs_no_descriptions_and_no_weight_needs_none_at_all() -> None:
    described = {"name": "descriptions", "sentences": {"cat": ["a"], "dog": ["b"]}}
    own = {"fir tree": ["green needles"]}
    check_classes(PromptSettings.model_validate({"strategies": [described], "classes": own}), CLASSES, "pets")
    unused = {"name": "captions", "file": "not written yet", "weight": 0}
    check_classes(PromptSettings.model_validate({"strategies": [unused, {"name": "template"}]}), CLASSES, "pets")


weights = st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any).map(tuple)


@given(weights, st.integers(1, 80))
def test_every_prefix_keeps_to_the_weights(weights: tuple[int, ...], length: int) -> None:
    counts = Counter(turn_of(weights, image)[0] for image in range(length))
    for strategy, weight in enumerate(weights):
        assert abs(counts[strategy] - length * weight / sum(weights)) < 1


@given(weights, st.integers(0, 80))
def test_the_turn_of_an_image_is_how_often_its_strategy_was_used_before(weights: tuple[int, ...], image: int) -> None:
    strategy, turn = turn_of(weights, image)
    assert turn == sum(turn_of(weights, before)[0] == strategy for before in range(image))


def test_far_images_cost_no_more_than_near_ones() -> None:
    strategy, turn = turn_of((3, 1), 4 * 10**9)
    assert (strategy, turn) == (turn_of((3, 1), 0)[0], 3 * 10**9)


@given(st.integers(1, 60))
def test_coverage_is_what_counting_all_prompts_gives(images: int) -> None:
    prompts = {name: [prompt_of(EVERYTHING, "{}", name, k) for k in range(images)] for name in CLASSES}
    labels = [EVERYTHING.labels[turn_of(EVERYTHING.weights, k)[0]] for k in range(images)]
    used = [OWN if name in EVERYTHING.classes else label for name in CLASSES for label in labels]
    found = coverage(EVERYTHING, "{}", CLASSES, images)
    assert found.distinct == len({prompt for every in prompts.values() for prompt in every})
    assert found.fewest == min(len(set(every)) for every in prompts.values())
    assert {name: count for name, count in found.by_strategy.items() if count} == {
        name: used.count(name) for name in set(used)
    }


def test_a_long_set_has_all_prompts_that_there_are() -> None:
    found = coverage(EVERYTHING, "{}", CLASSES, 1000)
    assert found.distinct == found.possible == 2 * (2 + 6 + 2 + 1) + 1


def test_samples_show_each_strategy_before_any_comes_again() -> None:
    found = samples(EVERYTHING, "{}", "cat", 16, 5)
    assert sorted(found[:4]) == sorted(["a photo of a cat.", "a red cat in the rain", "one cat", "cat in the sun"])
    assert len(set(found)) == 5


def test_samples_are_the_first_prompts_that_differ() -> None:
    settings = PromptSettings(templates=("a {}", "a {}", "the {}"))
    assert samples(settings, "{}", "cat", 16, 2) == ["a cat", "the cat"]
    assert samples(settings, "{}", "cat", 2, 2) == ["a cat"]
