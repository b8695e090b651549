"""Power of planned studies."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncclip.recipe.recipe import Recipe
from syncclip.studies.design import design_of, power_line
from syncclip.studies.statistics.power import Design, detectable_difference, required
from tests.worlds.study import study_recipe


def test_size_is_summed_over_the_datasets_of_a_suite(suite_world: Path) -> None:
    first, second = (
        study_recipe(suite_world, f"dataset.name={suite_world}/suite/{name}") for name in ("first", "second")
    )
    assert design_of([first]) == Design(classes=3, seeds=2, images=4)
    assert design_of([first, second]) == Design(classes=6, seeds=2, images=5, datasets=2)


def test_line_states_the_detectable_difference_and_the_required_classes() -> None:
    travel = Recipe.load("travel", ["study.seeds=[1, 2, 3, 4, 5]"])
    design = design_of([travel])
    assert design is not None and (design.classes, design.seeds) == (7, 5)
    shown, (classes, seeds) = detectable_difference(design), required(5, design) or (0, 0)
    assert power_line([travel]) == (
        f"power: with 7 novel classes, 5 seeds and {design.images:.0f} test images per class, differences above "
        f"{shown:.0f} points would be detected (80 % power, if gains vary as on icons); 5 points require about "
        f"{classes} novel classes and {seeds} seeds"
    )


@pytest.mark.parametrize(
    ("overrides", "end"),
    [
        (["study.seeds=[1]"], "; 5 points require about 121 novel classes and 7 seeds"),
        (["dataset.base=all"], ""),
    ],
)
def test_line_of_other_designs(overrides: list[str], end: str) -> None:
    line = power_line([Recipe.load("travel", overrides)])
    assert line is None if not end else (line or "").endswith(end)
