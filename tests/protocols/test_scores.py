"""Means over seeds and averages over datasets."""

from __future__ import annotations

import pytest

from syncclip.protocols.protocols import AVERAGE, PROTOCOLS, TRAINED
from syncclip.protocols.scores import summarise
from tests.protocols.fabricated import fabricated

HALVES, ACROSS = PROTOCOLS["base-to-novel"], PROTOCOLS["cross-dataset"]


def halves(test: str, method: str, seed: int) -> dict[str, float]:
    """Numbers that tell test and seed; `hm` is what `results.json` would say of the single run."""
    base, novel = 60 + TRAINED.index(test) + seed, 50 + 4 * seed
    return {"base": base, "novel": novel, "hm": 2 * base * novel / (base + novel)}


def test_a_mean_is_over_seeds_and_the_harmonic_mean_is_that_of_the_means() -> None:
    scores = summarise(HALVES, fabricated(HALVES, halves))
    line = next(line for line in scores.lines if line.method == "promptsrc")
    found = scores.of[line, TRAINED[2]]
    assert (found.means["base"], found.means["novel"]) == (64, 58)
    assert found.means["hm"] == pytest.approx(2 * 64 * 58 / (64 + 58))
    assert (found.done, found.wanted) == (3, 3)


def test_an_average_is_over_data_sets() -> None:
    scores = summarise(HALVES, fabricated(HALVES, halves))
    line = next(line for line in scores.lines if line.method == "zeroshot")
    average = scores.of[line, AVERAGE].means
    assert (average["base"], average["novel"]) == (65, 50)
    assert average["hm"] == pytest.approx(2 * 65 * 50 / 115)
    assert scores.published(line, AVERAGE)["base"] == 69.34


def test_a_run_that_is_missing_is_left_out_of_the_mean_and_told() -> None:
    def some(test: str, method: str, seed: int) -> dict[str, float] | None:
        return None if (test, method, seed) == ("dtd", "syncclip", 2) else halves(test, method, seed)

    scores = summarise(HALVES, fabricated(HALVES, some))
    line = next(line for line in scores.lines if line.method == "syncclip")
    assert (scores.of[line, "dtd"].done, scores.of[line, "dtd"].wanted) == (2, 3)
    assert scores.of[line, "dtd"].means["novel"] == 58  # of seeds 1 and 3
    every = [scores.of[one, test] for one in scores.lines for test in scores.tests]
    assert (sum(one.done for one in every), sum(one.wanted for one in every)) == (76, 77)


def test_there_is_no_average_where_a_data_set_has_no_run() -> None:
    def some(test: str, method: str, seed: int) -> dict[str, float] | None:
        return None if (test, method) == ("dtd", "syncclip") else halves(test, method, seed)

    scores = summarise(HALVES, fabricated(HALVES, some))
    averages = {line.method: scores.of[line, AVERAGE].means for line in scores.lines}
    assert averages["syncclip"] == {}
    assert averages["promptsrc"]


def test_a_method_on_other_data_than_its_authors_is_not_held_against_their_figures() -> None:
    table = fabricated(HALVES, halves)
    table.loc[table["method"] == "promptsrc", "data"] = "both"
    scores = summarise(HALVES, table)
    line = next(line for line in scores.lines if line.method == "promptsrc")
    assert scores.published(line, AVERAGE) == {}


def test_carried_prompts_are_averaged_over_the_other_data_sets_alone() -> None:
    def accuracy(test: str, method: str, seed: int) -> dict[str, float]:
        return {"all_classes_accuracy": {"imagenet": 90.0, "dtd": 40.0, "eurosat": 50.0}[test]}

    scores = summarise(ACROSS, fabricated(ACROSS, accuracy, tests=["dtd", "eurosat"]))
    assert scores.tests == ["imagenet", "dtd", "eurosat"]
    assert {scores.of[line, AVERAGE].means["all_classes_accuracy"] for line in scores.lines} == {45.0}
