from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from syncclip.synthesis.prompts.strategies import Combinations, StrategySettings

settings: TypeAdapter[StrategySettings] = TypeAdapter(StrategySettings)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def box(sizes: list[int]) -> Combinations:
    lists = {f"list {i}": tuple(f"{i}:{word}" for word in range(size)) for i, size in enumerate(sizes)}
    return Combinations("{} " + " ".join(f"{{{name}}}" for name in lists), lists)


def test_words_of_the_lists_take_their_places() -> None:
    strategy = settings.validate_python(
        {
            "name": "combinations",
            "sentence": "a {looks} {} {place}",
            "lists": {"looks": ["red", "old"], "place": ["in the rain"]},
        }
    )
    assert list(strategy.of("cat", "unused {}")) == ["a red {} in the rain", "a old {} in the rain"]


@given(sizes)
def test_all_combinations_come_once_before_any_comes_again(sizes: list[int]) -> None:
    combinations = box(sizes)
    assert len(set(combinations)) == len(combinations) == math.prod(sizes)


@given(sizes, st.integers(1, 60))
def test_every_word_of_a_list_comes_as_often_as_the_others_in_every_prefix(sizes: list[int], length: int) -> None:
    combinations = box(sizes)
    words = Counter(word for sentence in combinations[:length] for word in sentence.split()[1:])
    for i, size in enumerate(sizes):
        counts = [words[f"{i}:{word}"] for word in range(size)]
        assert max(counts) - min(counts) <= 1


def test_braces_in_words_stay_as_they_are() -> None:
    assert Combinations("a {} {b}", {"b": ("{c}",)})[0] == "a {} {c}"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"name": "template", "templates": ["a photo"]}, "'a photo' must contain {} exactly once"),
        ({"name": "template", "templates": ["a {} and a {}"]}, "must contain {} exactly once"),
        ({"name": "template", "weight": -1}, "greater than or equal to 0"),
        ({"name": "template", "weight": 0.5}, "valid integer"),
        ({"name": "combinations", "sentence": "a {}", "lists": {}}, "at least 1 item"),
        ({"name": "combinations", "sentence": "a {}", "lists": {"b": ["c"]}}, "must contain {b}"),
        (
            {"name": "combinations", "sentence": "{a} {b} {}", "lists": {"b": ["c"]}},
            "contains {a}, but there",
        ),
        ({"name": "combinations", "sentence": "a {b}", "lists": {"b": ["c"]}}, "must contain {} exactly once"),
        ({"name": "combinations", "sentence": "a {} {b}", "lists": {"b": []}}, "at least 1 item"),
        ({"name": "combinations", "sentence": "a {} {b}", "lists": {"b": [" "]}}, "is no sentence"),
        ({"name": "descriptions"}, "need a 'file' or 'sentences', one of the two"),
        ({"name": "descriptions", "file": "a", "sentences": {"cat": ["b"]}}, "one of the two"),
        ({"name": "descriptions", "sentences": {"cat": ["a cat\nand a dog"]}}, "write one line of text"),
        ({"name": "haiku"}, "haiku"),
    ],
)
def test_invalid_settings_are_errors(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as failure:
        settings.validate_python(given)
    assert sentence in str(failure.value)
