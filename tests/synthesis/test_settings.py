from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.settings import SynthesisSettings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"images_per_class": 0}, "images_per_class\n  Input should be greater than or equal to 1"),
        ({"actors": 0}, "actors.\n  Input should be greater than or equal to 1"),
        ({"shard_size": 4, "generator": {"batch_size": 8}}, "shard_size 4 is smaller than one batch"),
        ({"generator": {"height": 60}}, "60 pixels is not a multiple of 8, which latent diffusion needs; try 64"),
        ({"filters": [{"name": "blank"}, {"name": "blank"}]}, "the filter 'blank' is given twice"),
        ({"filters": [{"name": "clip_score"}]}, "it would keep everything"),
        ({"filters": [], "select": "best"}, "select 'best' needs a filter"),
        ({"filters": [{"name": "blnk"}]}, "blank"),
        ({"images_per_clas": 3}, "images_per_clas"),
    ],
)
def test_invalid_settings_are_errors(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as failure:
        SynthesisSettings.model_validate(settings)
    assert sentence in str(failure.value)


def test_filters_are_reported_apart_by_their_names() -> None:
    settings = SynthesisSettings.model_validate({"filters": [{"name": "blank"}, {"name": "clip_score", "top": 3}]})
    assert [type(one).__name__ for one in settings.filters] == ["BlankSettings", "ClipScoreSettings"]


@pytest.mark.parametrize(("actors", "bounds"), [(3, (3, 3)), ({"min": 2, "max": 4}, (2, 4)), ({"max": 4}, (1, 4))])
def test_actors_are_a_number_or_bounds(actors: Any, bounds: tuple[int, int]) -> None:
    settings = SynthesisSettings.model_validate({"actors": actors})
    assert settings.pool.size == bounds


@pytest.mark.parametrize(
    ("actors", "sentence"),
    [
        ("abc", "synthesis.actors: 'abc' is not allowed; it must be a whole number"),
        ("0", "synthesis.actors: 0 is not allowed; it must be at least 1"),
        ("{min: 5, max: 4}", "synthesis.actors: min 5 is larger than max 4; exchange them"),
        ("{min: 0, max: 4}", "synthesis.actors.min: 0 is not allowed; it must be at least 1"),
        ("{most: 4}", "synthesis.actors.most: no such key; there are min, max"),
    ],
)
def test_wrong_bounds_of_actors_are_reported_with_their_place(actors: str, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        Recipe.load("icons", [f"synthesis.actors={actors}"])
