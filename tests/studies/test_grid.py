"""Which cells a study has, and their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncclip.recipe.study import Configuration, StudySettings
from syncclip.studies.grid import capped, cells, spread

CONFIGURATIONS = [
    Configuration(method="zeroshot"),
    Configuration(method="ivlp", data="real"),
    Configuration(method="syncclip", data="both"),
]


def test_the_default_grid_is_as_large_as_it_should_be() -> None:
    # zero-shot once; real only for each of 5 seeds; three configurations at 4 amounts for each of 5 seeds
    assert len(cells(StudySettings())) == 1 + 5 + 3 * 4 * 5


def test_the_first_results_tell_most() -> None:
    settings = StudySettings(configurations=CONFIGURATIONS, images_per_class=[1, 4, 16], seeds=[7, 8])
    assert [cell.name for cell in cells(settings)] == [
        "zeroshot",
        "ivlp-real-seed7",
        "syncclip-both-16-seed7",
        "syncclip-both-1-seed7",
        "syncclip-both-4-seed7",
        "ivlp-real-seed8",
        "syncclip-both-16-seed8",
        "syncclip-both-1-seed8",
        "syncclip-both-4-seed8",
    ]


def test_amounts_come_largest_smallest_then_from_the_widest_gap() -> None:
    assert spread([1, 2, 4, 8, 16]) == [16, 1, 4, 2, 8]
    assert spread([5]) == [5]


@given(st.sets(st.integers(1, 6), min_size=1), st.sets(st.integers(1, 500), min_size=1))
def test_names_are_unique_and_no_number_is_lost(seeds: set[int], amounts: set[int]) -> None:
    assert sorted(spread(list(amounts))) == sorted(amounts)
    names = [cell.name for cell in cells(StudySettings(seeds=sorted(seeds), images_per_class=sorted(amounts)))]
    assert len(set(names)) == len(names)


@given(st.sets(st.integers(1, 500), min_size=1), st.integers(1, 500), st.integers(1, 9))
def test_adding_an_amount_or_a_seed_keeps_the_other_cells(amounts: set[int], more: int, seed: int) -> None:
    before = {cell.name for cell in cells(StudySettings(images_per_class=sorted(amounts), seeds=[1]))}
    after = {
        cell.name for cell in cells(StudySettings(images_per_class=sorted({*amounts, more}), seeds=sorted({1, seed})))
    }
    assert before <= after


def test_amounts_beyond_what_there_is_become_what_there_is() -> None:
    assert capped([1, 4, 16, 64], 20) == [1, 4, 16, 20]
    assert capped([1, 4, 16, 64], 16) == [1, 4, 16]


def test_a_configuration_may_keep_to_some_of_the_amounts() -> None:
    configurations = [Configuration(method="ivlp", images_per_class=[16]), Configuration(method="syncclip")]
    settings = StudySettings(configurations=configurations, images_per_class=[1, 4, 16], seeds=[1])
    names = [cell.name for cell in cells(settings)]
    assert names == ["ivlp-both-16-seed1", "syncclip-both-16-seed1", "syncclip-both-1-seed1", "syncclip-both-4-seed1"]
    # Of a smaller set it takes the largest amount that there is.
    smaller = settings.model_copy(update={"images_per_class": capped(settings.amounts, 8)})
    assert "ivlp-both-8-seed1" in [cell.name for cell in cells(smaller)]
