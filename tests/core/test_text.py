from __future__ import annotations

import pytest

from syncclip.core.text import counted, did_you_mean, duration, first_line, nearest, percent, signed, size, spoken


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 shards"), (1, "1 shard"), (2, "2 shards"), (12345, "12,345 shards")]
)
def test_one_has_another_form_than_many(count: int, text: str) -> None:
    assert counted(count, "shard") == text


def test_an_irregular_plural_is_used() -> None:
    assert [counted(count, "class", "classes") for count in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]


def test_shares_are_whole_percentages() -> None:
    assert [percent(share) for share in (0, 0.004, 0.931, 1)] == ["0 %", "0 %", "93 %", "100 %"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3 * 3600 + 20 * 60 + 59, "3 h 20 min"),
        (2 * 86400 + 5 * 3600, "2 d 5 h"),
        (1234 * 86400, "1,234 d"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_have_decimal_units() -> None:
    assert [size(count) for count in (0, 999, 1400, 2_500_000_000)] == ["0 B", "999 B", "1.4 kB", "2.5 GB"]


def test_underscores_of_class_names_are_spaces_in_sentences() -> None:
    assert [spoken(name) for name in ("hot_dog", "hot__dog", " hot dog_")] == ["hot dog"] * 3


def test_the_nearest_name_begins_alike_or_is_spelled_alike() -> None:
    known = ["base-to-novel", "few-shot", "losses"]
    assert nearest("base", known) == "base-to-novel"
    assert nearest("fewshot", known) == "few-shot"
    assert nearest("zebra", known) is None
    assert nearest("", known) is None


def test_all_names_are_listed_where_none_is_near() -> None:
    assert did_you_mean("iccons", ["icons", "demo"]) == "did you mean 'icons'?"
    assert did_you_mean("zebra", ["icons", "demo"]) == "there are icons, demo"


@pytest.mark.parametrize(("value", "said"), [(1.04, "+1.0"), (-0.26, "−0.3"), (-0.04, "0.0"), (0.0, "0.0")])
def test_differences_carry_their_sign_unless_they_round_to_nothing(value: float, said: str) -> None:
    assert signed(value) == said


def test_an_interval_has_both_of_its_signs() -> None:
    assert signed(-0.26, 2.0) == "−0.3 to +2.0"


def test_the_first_line_of_an_error_or_its_kind_where_it_has_no_text() -> None:
    assert first_line(ValueError("\n broken.\nat line 3")) == "broken"
    assert first_line(MemoryError()) == "MemoryError"
