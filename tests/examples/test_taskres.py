"""A custom method outside the package: recipe, construction, loss and training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from syncclip import jobs
from syncclip.core.settings import UserError
from syncclip.core.trust import trust
from syncclip.methods import find_method
from syncclip.recipe.recipe import Recipe
from tests.conftest import TinyWorld

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME = "examples.taskres:TaskRes"


def test_the_example_recipe_selects_the_method() -> None:
    recipe = Recipe.load(str(EXAMPLES / "taskres.yaml"))
    assert find_method(recipe.training.method).__name__ == "TaskRes"
    assert recipe.methods.of(NAME).model_dump() == {"learning_rate": 0.002, "scale": 0.5}


def test_it_starts_as_zero_shot_clip_and_learns(tiny: TinyWorld, tmp_path: Path) -> None:
    trust(NAME)
    values = {"training.method": NAME, "training.data": "real", "training.epochs": 2}
    recipe = Recipe.load(tiny.recipe).with_values({**values, "methods.custom.learning_rate": 5.0})
    run = jobs.run_here(recipe, str(tmp_path / "run"))
    assert run.name == "TaskRes-real-seed1"
    assert {"base", "novel", "hm"} <= run.results.keys()
    (residuals,) = load_file(tmp_path / "run" / "prompts.safetensors").values()
    base = len(residuals) // 2 + len(residuals) % 2
    assert residuals[:base].abs().sum() > 0
    assert torch.equal(residuals[base:], torch.zeros_like(residuals[base:])), "novel classes have no real images"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scala": 1}, r"methods\.custom\.scala: .* 'scale'\? \(TaskRes\)"),
        ({"scale": "much"}, r"methods\.custom\.scale: 'much' .* number \(TaskRes\)"),
    ],
)
def test_an_invalid_setting_is_an_error(tiny: TinyWorld, settings: dict[str, object], reason: str) -> None:
    trust(NAME)
    with pytest.raises(UserError, match=reason):
        Recipe.load(tiny.recipe).with_values({"training.method": NAME, "methods.custom": settings})


def test_an_invalid_setting_names_its_origin(tiny: TinyWorld) -> None:
    trust(NAME)
    with pytest.raises(UserError, match=r"^command line: methods\.custom\.scala: "):
        Recipe.load(tiny.recipe, [f"training.method={NAME}", "methods.custom.scala=1"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("examples.nowhere:TaskRes", "No module named 'examples.nowhere'"),
        ("examples.taskres:Nothing", "has no attribute 'Nothing'"),
        (".taskres:TaskRes", "use package.module:Class"),
        (":TaskRes", "use package.module:Class"),
        ("examples.taskres:Tensor", "is not a method"),
    ],
)
def test_an_invalid_reference_is_an_error(name: str, reason: str) -> None:
    trust(name)
    with pytest.raises(UserError, match=reason):
        find_method(name)
