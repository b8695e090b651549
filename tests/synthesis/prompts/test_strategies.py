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


def combinations_of(sizes: list[int]) -> Combinations:
    lists = {f"list {i}": tuple(f"{i}:{word}" for word in range(size)) for i, size in enumerate(sizes)}
    return Combinations("{} " + " ".join(f"{{{name}}}" for name in lists), lists)


def test_placeholders_are_replaced_by_words() -> None:
    lists = {"looks": ["red", "old"], "place": ["in the rain"]}
    strategy = settings.validate_python({"name": "combinations", "sentence": "a {looks} {} {place}", "lists": lists})
    assert list(strategy.of("cat", "unused {}")) == ["a red {} in the rain", "a old {} in the rain"]
    assert Combinations("a {} {b}", {"b": ("{c}",)})[0] == "a {} {c}"


@given(sizes, st.integers(1, 60))
def test_all_combinations_occur_once_and_words_equally_often(sizes: list[int], length: int) -> None:
    combinations = combinations_of(sizes)
    assert len(set(combinations)) == len(combinations) == math.prod(sizes)
    words = Counter(word for sentence in combinations[:length] for word in sentence.split()[1:])
    for i, size in enumerate(sizes):
        counts = [words[f"{i}:{word}"] for word in range(size)]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "template", "templates": ["a photo"]}, "'a photo' must contain {} exactly once"),
        ({"name": "template", "weight": 0.5}, "valid integer"),
        ({"name": "combinations", "sentence": "a {}", "lists": {}}, "at least 1 item"),
        ({"name": "combinations", "sentence": "a {}", "lists": {"b": ["c"]}}, "must contain {b}"),
        ({"name": "combinations", "sentence": "{a} {b} {}", "lists": {"b": ["c"]}}, "contains {a}, which is not"),
        ({"name": "combinations", "sentence": "a {b}", "lists": {"b": ["c"]}}, "must contain {} exactly once"),
        ({"name": "combinations", "sentence": "a {} {b}", "lists": {"b": []}}, "at least 1 item"),
        ({"name": "combinations", "sentence": "a {} {b}", "lists": {"b": [" "]}}, "must be one line"),
        ({"name": "descriptions"}, "either 'file' or 'sentences'"),
        ({"name": "descriptions", "file": "a", "sentences": {"cat": ["b"]}}, "either 'file' or 'sentences'"),
        ({"name": "descriptions", "sentences": {"cat": ["a cat\nand a dog"]}}, "must be one line"),
    ],
)
def test_invalid_settings_are_errors(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as failure:
        settings.validate_python(values)
    assert message in str(failure.value)
