"""The trainings of a study, and their order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncclip.recipe.recipe import Recipe
from syncclip.recipe.study import Configuration, StudySettings
from syncclip.studies.findings import SyntheticSet
from syncclip.studies.grid import cells, spread
from syncclip.studies.run import with_amounts

CONFIGURATIONS = [
    Configuration(method="zeroshot"),
    Configuration(method="ivlp", data="real"),
    Configuration(method="syncclip", data="both"),
]


def names(settings: StudySettings) -> list[str]:
    return [cell.name for cell in cells(settings)]


def test_size_of_the_default_grid() -> None:
    # zero-shot; real images for each of 5 seeds; three configurations at 4 numbers of images for each of 5 seeds
    assert len(cells(StudySettings())) == 1 + 5 + 3 * 4 * 5


def test_most_informative_trainings_come_first() -> None:
    settings = StudySettings(configurations=CONFIGURATIONS, images_per_class=[1, 4, 16], seeds=[7, 8])
    by_seed = ["ivlp-real-seed{}", "syncclip-both-16-seed{}", "syncclip-both-1-seed{}", "syncclip-both-4-seed{}"]
    assert names(settings) == ["zeroshot", *(name.format(seed) for seed in (7, 8) for name in by_seed)]


def test_numbers_of_images_are_spread() -> None:
    assert spread([1, 2, 4, 8, 16]) == [16, 1, 4, 2, 8]
    assert spread([5]) == [5]


@given(st.sets(st.integers(1, 6), min_size=1), st.sets(st.integers(1, 500), min_size=1))
def test_names_are_unique_and_no_number_of_images_is_lost(seeds: set[int], amounts: set[int]) -> None:
    assert sorted(spread(list(amounts))) == sorted(amounts)
    cell_names = names(StudySettings(seeds=sorted(seeds), images_per_class=sorted(amounts)))
    assert len(set(cell_names)) == len(cell_names)


@given(st.sets(st.integers(1, 500), min_size=1), st.integers(1, 500), st.integers(1, 9))
def test_adding_images_or_a_seed_keeps_existing_trainings(amounts: set[int], more: int, seed: int) -> None:
    before = names(StudySettings(images_per_class=sorted(amounts), seeds=[1]))
    after = names(StudySettings(images_per_class=sorted({*amounts, more}), seeds=sorted({1, seed})))
    assert set(before) <= set(after)


@pytest.mark.parametrize(("available", "kept", "dropped"), [(20, [1, 4, 16, 20], [64]), (16, [1, 4, 16], [64])])
def test_numbers_of_images_are_limited_to_the_available_one(
    available: int, kept: list[int], dropped: list[int]
) -> None:
    recipe = Recipe.load("icons", ["study.images_per_class=[1, 4, 16, 64]"])
    limited, lost = with_amounts(recipe, SyntheticSet("runs/set", available))
    assert (limited.study.amounts, lost) == (kept, dropped)


def test_configuration_with_its_own_numbers_of_images() -> None:
    configurations = [Configuration(method="ivlp", images_per_class=[16]), Configuration(method="syncclip")]
    settings = StudySettings(configurations=configurations, images_per_class=[1, 4, 16], seeds=[1])
    ours = [f"syncclip-both-{n}-seed1" for n in (16, 1, 4)]
    assert names(settings) == ["ivlp-both-16-seed1", *ours]
    smaller = settings.model_copy(update={"images_per_class": [1, 4, 8]})
    assert "ivlp-both-8-seed1" in names(smaller)
