from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncclip.synthesis.prompts import PromptSettings, coverage, prompt_of, samples, strategy_of
from tests.synthesis.prompts import CLASSES, EVERYTHING


@given(st.integers(1, 60))
def test_coverage_is_what_counting_all_prompts_gives(images: int) -> None:
    prompts = {name: [prompt_of(EVERYTHING, "{}", name, k) for k in range(images)] for name in CLASSES}
    used = [strategy_of(EVERYTHING, name, k) for name in CLASSES for k in range(images)]
    found = coverage(EVERYTHING, "{}", CLASSES, images)
    assert found.distinct == len({prompt for every in prompts.values() for prompt in every})
    assert found.fewest == min(len(set(every)) for every in prompts.values())
    assert {name: count for name, count in found.by_strategy.items() if count} == {
        name: used.count(name) for name in set(used)
    }


def test_a_long_set_has_all_prompts_that_there_are() -> None:
    found = coverage(EVERYTHING, "{}", CLASSES, 1000)
    assert found.distinct == found.possible == 2 * (2 + 6 + 2 + 1) + 1


def test_strategies_that_no_image_has_come_to_yet_count_nothing() -> None:
    assert coverage(EVERYTHING, "{}", CLASSES, 1).by_strategy["captions"] == 0


def test_samples_show_each_strategy_before_any_comes_again() -> None:
    found = samples(EVERYTHING, "{}", "cat", 16, 5)
    assert sorted(found[:4]) == sorted(["a photo of a cat.", "a red cat in the rain", "one cat", "cat in the sun"])
    assert len(set(found)) == 5


def test_samples_are_the_first_prompts_that_differ() -> None:
    settings = PromptSettings(templates=("a {}", "a {}", "the {}"))
    assert samples(settings, "{}", "cat", 16, 2) == ["a cat", "the cat"]
    assert samples(settings, "{}", "cat", 2, 2) == ["a cat"]
