"""Means over seeds and averages over datasets."""

from __future__ import annotations

import pytest

from syncclip.protocols.protocols import AVERAGE, PROTOCOLS, TRAINED
from syncclip.protocols.scores import summarise
from tests.protocols.fabricated import fabricated

WITHIN_SPLIT, CROSS_DATASET = PROTOCOLS["base-to-novel"], PROTOCOLS["cross-dataset"]


def within_split(test: str, method: str, seed: int) -> dict[str, float]:
    """Scores that identify dataset and seed; `hm` is the harmonic mean of the single run."""
    base, novel = 60 + TRAINED.index(test) + seed, 50 + 4 * seed
    return {"base": base, "novel": novel, "hm": 2 * base * novel / (base + novel)}


def test_harmonic_mean_is_that_of_the_means_over_seeds() -> None:
    scores = summarise(WITHIN_SPLIT, fabricated(WITHIN_SPLIT, within_split))
    line = next(line for line in scores.lines if line.method == "promptsrc")
    score = scores.of[line, TRAINED[2]]
    assert (score.means["base"], score.means["novel"]) == (64, 58)
    assert score.means["hm"] == pytest.approx(2 * 64 * 58 / (64 + 58))
    assert (score.done, score.wanted) == (3, 3)


def test_average_is_over_datasets() -> None:
    scores = summarise(WITHIN_SPLIT, fabricated(WITHIN_SPLIT, within_split))
    line = next(line for line in scores.lines if line.method == "zeroshot")
    average = scores.of[line, AVERAGE].means
    assert (average["base"], average["novel"]) == (65, 50)
    assert average["hm"] == pytest.approx(2 * 65 * 50 / 115)
    assert scores.published(line, AVERAGE)["base"] == 69.34


def test_missing_run_is_counted_but_not_averaged() -> None:
    def some(test: str, method: str, seed: int) -> dict[str, float] | None:
        return None if (test, method, seed) == ("dtd", "syncclip", 2) else within_split(test, method, seed)

    scores = summarise(WITHIN_SPLIT, fabricated(WITHIN_SPLIT, some))
    line = next(line for line in scores.lines if line.method == "syncclip")
    assert (scores.of[line, "dtd"].done, scores.of[line, "dtd"].wanted) == (2, 3)
    assert scores.of[line, "dtd"].means["novel"] == 58  # of seeds 1 and 3
    tested = [scores.of[line, test] for line in scores.lines for test in scores.tests]
    assert (sum(score.done for score in tested), sum(score.wanted for score in tested)) == (76, 77)


def test_average_requires_a_run_on_each_dataset() -> None:
    def some(test: str, method: str, seed: int) -> dict[str, float] | None:
        return None if (test, method) == ("dtd", "syncclip") else within_split(test, method, seed)

    scores = summarise(WITHIN_SPLIT, fabricated(WITHIN_SPLIT, some))
    averages = {line.method: scores.of[line, AVERAGE].means for line in scores.lines}
    assert averages["syncclip"] == {}
    assert averages["promptsrc"]


def test_published_results_on_other_training_data_are_not_comparable() -> None:
    table = fabricated(WITHIN_SPLIT, within_split)
    table.loc[table["method"] == "promptsrc", "data"] = "both"
    scores = summarise(WITHIN_SPLIT, table)
    line = next(line for line in scores.lines if line.method == "promptsrc")
    assert scores.published(line, AVERAGE) == {}


def test_average_of_transferred_prompts_excludes_the_training_dataset() -> None:
    def accuracy(test: str, method: str, seed: int) -> dict[str, float]:
        return {"all_classes_accuracy": {"imagenet": 90.0, "dtd": 40.0, "eurosat": 50.0}[test]}

    scores = summarise(CROSS_DATASET, fabricated(CROSS_DATASET, accuracy, tests=["dtd", "eurosat"]))
    assert scores.tests == ["imagenet", "dtd", "eurosat"]
    assert {scores.of[line, AVERAGE].means["all_classes_accuracy"] for line in scores.lines} == {45.0}
