"""Baselines of an evaluation: chance level and warnings."""

from __future__ import annotations

from typing import Any

import pytest

from syncclip.evaluation.baselines import baseline_warnings, chance


def test_chance_is_the_accuracy_of_guessing_among_the_candidates() -> None:
    scores = chance(range(10), 4)
    assert scores["base"] == 25 and scores["novel"] == pytest.approx(100 / 6)
    assert scores["hm"] == pytest.approx(20), "2 / (4 + 6)"
    assert [scores[key] for key in scores if key.startswith("all_classes")] == pytest.approx([10] * 4)
    assert scores["openworld_auc"] is None


def test_chance_counts_only_candidate_classes() -> None:
    scores = chance([0, 2, 5, 6, 7], 4)
    assert (scores["base"], scores["novel"]) == (50, pytest.approx(100 / 3)) and scores["all_classes_accuracy"] == 20


def test_chance_is_undefined_without_novel_candidates() -> None:
    scores = chance(range(4), 4)
    assert scores["base"] == 25 and scores["all_classes_accuracy"] == 25
    assert scores["novel"] is None and scores["hm"] is None and scores["all_classes_hm"] is None


def baselines(chance_level: float, zero_shot: float | None, key: str = "all_classes_hm") -> dict[str, Any]:
    return {"chance": {key: chance_level}} | ({} if zero_shot is None else {"zero_shot": {key: zero_shot}})


@pytest.mark.parametrize(
    ("score", "of_baselines", "phrases"),
    [
        (40.1, baselines(10.0, 40.0), []),
        (9.0, baselines(10.0, 40.0), ["for ivlp (9.0 %, chance: 10.0 %)"]),
        (40.0, baselines(10.0, 40.0), ["HM (all) is not above zero-shot CLIP (40.0 %) for ivlp (40.0 %)"]),
        (9.0, baselines(10.0, 8.0), ["not above chance (10.0 %)", "zero-shot CLIP is 8.0 %, of chance 10.0 %"]),
        (25.0, baselines(10.0, 19.9), ["zero-shot CLIP is 19.9 %, of chance 10.0 %"]),
        (25.0, baselines(10.0, 20.0), []),
        (10.0, baselines(10.0, None), ["not above chance (10.0 %) for ivlp (10.0 %)"]),
    ],
)
def test_a_warning_if_a_method_is_not_above_a_baseline_or_clip_hardly_knows_the_classes(
    score: float, of_baselines: dict[str, Any], phrases: list[str]
) -> None:
    warnings = baseline_warnings({"ivlp": {"all_classes_hm": score}}, of_baselines)
    assert len(warnings) == len(phrases), warnings
    assert all(phrase in warning for phrase, warning in zip(phrases, warnings, strict=True)), warnings


def test_without_novel_classes_the_accuracy_with_all_classes_is_compared() -> None:
    key = "all_classes_accuracy"
    scores = {"ivlp": {key: 50.0, "all_classes_hm": None}, "coop": {key: 61.0, "all_classes_hm": None}}
    (warning,) = baseline_warnings(scores, baselines(10.0, 60.0, key))
    assert warning.startswith("accuracy (all) is not above zero-shot CLIP (60.0 %) for ivlp (50.0 %);")
