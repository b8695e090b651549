"""The recipe for prompts in docs/prompts-and-captions.md is valid."""

from __future__ import annotations

import re
from pathlib import Path

from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.prompts.settings import prompt_of

DOCS = (Path(__file__).parents[3] / "docs" / "prompts-and-captions.md").read_text(encoding="utf-8")


def test_the_recipe_of_the_documentation_is_accepted(tmp_path: Path) -> None:
    (text,) = (block for block in re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL) if "strategies:" in block)
    (tmp_path / "birds.yaml").write_text(text)
    prompts = Recipe.load(str(tmp_path / "birds.yaml")).synthesis.prompts
    assert prompts.labels == ("template", "combinations", "descriptions", "captions")
    assert prompt_of(prompts, "", "crane", 0) == "a crane, the bird, at a lake"
