from __future__ import annotations

import re
from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.settings import SynthesisSettings


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["images_per_class=0"], "images_per_class: 0 is not allowed; it must be at least 1"),
        (["generator={batch_size: 8}", "shard_size=4"], "shard_size 4 is smaller than generator.batch_size 8"),
        (["filters=[{name: blank}, {name: blank}]"], "the filter 'blank' is set twice"),
        (["filters=[{name: clip_score}]"], "accepts all images"),
        (["filters=[]", "select=best"], "select 'best' needs a filter"),
        (["filters=[{name: blnk}]"], "there is no 'blnk'; did you mean 'blank'?"),
        (["images_per_clas=3"], "images_per_clas: no such key; did you mean 'synthesis.images_per_class'?"),
        (["actors=abc"], "synthesis.actors: 'abc' is not allowed; it must be a whole number"),
        (["actors=0"], "synthesis.actors: 0 is not allowed; it must be at least 1"),
        (["actors={min: 5, max: 4}"], "synthesis.actors: min 5 is larger than max 4"),
        (["actors={min: 0, max: 4}"], "synthesis.actors.min: 0 is not allowed"),
        (["actors={most: 4}"], "synthesis.actors.most: no such key; available: min, max"),
    ],
)
def test_invalid_settings_are_errors_with_their_key(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Recipe.load("icons", [f"synthesis.{override}" for override in overrides])


@pytest.mark.parametrize(("actors", "size"), [(3, (3, 3)), ({"min": 2, "max": 4}, (2, 4)), ({"max": 4}, (1, 4))])
def test_actors_are_a_number_or_bounds(actors: Any, size: tuple[int, int]) -> None:
    assert SynthesisSettings.model_validate({"actors": actors}).pool.size == size
