from __future__ import annotations

import pytest
from pydantic import ValidationError

from syncclip.synthesis.prompts import PromptSettings, prompt_of


def test_the_benchmarks_template_is_used_where_none_is_given() -> None:
    assert prompt_of(PromptSettings(), "a photo of a {}.", "cat", 5) == "a photo of a cat."


def test_templates_are_taken_in_turn() -> None:
    settings = PromptSettings(templates=("a {}", "the {}"))
    assert [prompt_of(settings, "unused {}", "cat", image) for image in range(4)] == ["a cat", "the cat"] * 2


def test_braces_in_a_class_name_stay_as_they_are() -> None:
    assert prompt_of(PromptSettings(), "a {}", "set {x}", 0) == "a set {x}"


@pytest.mark.parametrize("template", ["a photo", "a {} and a {}"])
def test_a_template_without_one_place_for_the_name_is_refused(template: str) -> None:
    with pytest.raises(ValidationError, match="exactly once"):
        PromptSettings(templates=(template,))
