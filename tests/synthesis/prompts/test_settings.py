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
    samples,
    turn_of,
)
from tests.synthesis.prompts import CLASSES, EVERYTHING


def prompts(settings: PromptSettings, classname: str, images: int) -> list[str]:
    return [prompt_of(settings, "a {}", classname, image) for image in range(images)]


def test_templates_are_used_in_turn() -> None:
    assert prompts(PromptSettings(), "cat", 2) == ["a cat", "a cat"]
    assert prompts(PromptSettings(templates=("a {}", "the {}")), "cat", 4) == ["a cat", "the cat"] * 2


def test_braces_in_a_class_name_are_kept() -> None:
    assert prompts(PromptSettings(), "set {x}", 1) == ["a set {x}"]


def test_strategies_are_mixed_by_their_weights() -> None:
    described = {"name": "descriptions", "sentences": {"cat": ["a {} asleep", "whiskers"]}}
    settings = PromptSettings.model_validate({"strategies": [{"name": "template", "weight": 2}, described]})
    assert prompts(settings, "cat", 6) == ["a cat", "a cat asleep", "a cat", "a cat", "whiskers", "a cat"]
    assert coverage(settings, "a {}", ["cat"], 3).by_strategy == {"template": 2, "descriptions": 1}


def test_a_class_can_have_its_own_sentences() -> None:
    settings = PromptSettings(classes={"crane": ("a {}, the bird", "a bird on one leg")})
    assert prompts(settings, "crane", 3) == ["a crane, the bird", "a bird on one leg", "a crane, the bird"]
    assert prompts(settings, "cat", 1) == ["a cat"]
    assert coverage(settings, "a {}", ["crane", "cat"], 8).by_strategy == {"own": 8, "template": 8}


def test_labels_of_repeated_strategies_are_numbered() -> None:
    two = [{"name": "template"}, {"name": "template", "templates": ["the {}"]}]
    assert PromptSettings.model_validate({"strategies": two}).labels == ("template 1", "template 2")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"templates": ["a photo"]}, "exactly once"),
        ({"templates": ["a {} and a {}"]}, "exactly once"),
        ({"templates": ["a {}"], "strategies": [{"name": "template"}]}, "mutually exclusive"),
        ({"strategies": [{"name": "template", "weight": 0}]}, "the weights of all strategies are 0"),
        ({"classes": {"cat": []}}, "at least 1 item"),
    ],
)
def test_invalid_settings_are_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PromptSettings.model_validate(values)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("{name: captoins}", ".name: there is no 'captoins'; did you mean 'captions'?"),
        ("{name: template, weight: -1}", ".weight: -1 is not allowed; it must be at least 0"),
        ("{templates: [a]}", ": the 'name' key"),
        ("{name: template, templates: [a photo]}", ".templates[0]: the template 'a photo' must contain {}"),
    ],
)
def test_errors_in_strategies_are_reported_with_their_key(strategy: str, message: str) -> None:
    with pytest.raises(UserError) as failure:
        Recipe.load("icons", [f"synthesis.prompts.strategies=[{strategy}]"])
    assert f"synthesis.prompts.strategies[0]{message}" in str(failure.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"classes": {"cta": ["a cat"]}},
            "prompts.classes: 'cta' is not a class of dataset 'pets'; did you mean 'cat'?",
        ),
        (
            {"strategies": [{"name": "descriptions", "sentences": {"cat": ["a cat"]}}]},
            "strategies[0] (descriptions) has no sentence for class 'dog' and 1 more",
        ),
        (
            {"strategies": [{"name": "descriptions", "sentences": {name: ["a"] for name in (*CLASSES, "cow")}}]},
            "strategies[0] (descriptions): 'cow' is not a class",
        ),
    ],
)
def test_missing_and_unknown_classes_are_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as failure:
        check_classes(PromptSettings.model_validate(values), CLASSES, "pets")
    assert message in str(failure.value)


def test_own_sentences_and_weight_0_replace_descriptions() -> None:
    described = {"name": "descriptions", "sentences": {"cat": ["a"], "dog": ["b"]}}
    own = {"fir tree": ["green needles"]}
    check_classes(PromptSettings.model_validate({"strategies": [described], "classes": own}), CLASSES, "pets")
    unused = {"name": "captions", "file": "not written yet", "weight": 0}
    check_classes(PromptSettings.model_validate({"strategies": [unused, {"name": "template"}]}), CLASSES, "pets")


weights = st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any).map(tuple)


@given(weights, st.integers(1, 80))
def test_every_prefix_follows_the_weights(weights: tuple[int, ...], length: int) -> None:
    counts: Counter[int] = Counter()
    for image in range(length):
        strategy, turn = turn_of(weights, image)
        assert turn == counts[strategy]
        counts[strategy] += 1
    assert all(abs(counts[i] - length * weight / sum(weights)) < 1 for i, weight in enumerate(weights))


def test_the_turn_of_a_late_image_is_computed_directly() -> None:
    assert turn_of((3, 1), 4 * 10**9) == (turn_of((3, 1), 0)[0], 3 * 10**9)


@given(st.integers(1, 60))
def test_coverage_equals_a_count_of_all_prompts(images: int) -> None:
    prompts = {name: [prompt_of(EVERYTHING, "{}", name, k) for k in range(images)] for name in CLASSES}
    labels = [EVERYTHING.labels[turn_of(EVERYTHING.weights, k)[0]] for k in range(images)]
    used = Counter(OWN if name in EVERYTHING.classes else label for name in CLASSES for label in labels)
    result = coverage(EVERYTHING, "{}", CLASSES, images)
    assert result.distinct == len({prompt for of_class in prompts.values() for prompt in of_class})
    assert result.fewest == min(len(set(of_class)) for of_class in prompts.values())
    assert Counter(result.by_strategy) == used


def test_many_images_use_all_possible_prompts() -> None:
    result = coverage(EVERYTHING, "{}", CLASSES, 1000)
    assert result.distinct == result.possible == 2 * (2 + 6 + 2 + 1) + 1


def test_samples_are_distinct_and_begin_with_each_strategy() -> None:
    prompts = samples(EVERYTHING, "{}", "cat", 16, 5)
    assert sorted(prompts[:4]) == sorted(["a photo of a cat.", "a red cat in the rain", "one cat", "cat in the sun"])
    assert len(set(prompts)) == 5
    settings = PromptSettings(templates=("a {}", "a {}", "the {}"))
    assert samples(settings, "{}", "cat", 16, 2) == ["a cat", "the cat"]
    assert samples(settings, "{}", "cat", 2, 2) == ["a cat"]
