from __future__ import annotations

from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.generators.settings import GeneratorSettings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0 is not allowed; it must be a whole number, at least 1, or 'auto'"),
        ({"batch_size": "many"}, "batch_size: 'many' is not allowed; it must be a whole number"),
        ({"attention": "auto"}, "attention: 'auto' is not allowed; it must be 'sdpa', 'xformers', 'flash' or 'sage'"),
        (
            {"height": 512, "width": 512},
            "the embedded generator 'icons' generates images of 64 x 64 pixels only, not of 512; remove",
        ),
        ({"height": 100}, "height: 100 pixels is not a multiple of 8, which latent diffusion needs; try 96"),
        ({"guide": {"strength": 0}}, "guide.strength: 0 is not allowed; it must be more than 0"),
        (
            {"guide": {"strength": 0.3}, "steps": 3},
            "3 steps at guide.strength 0.3 leave no denoising step; use at least 4",
        ),
        ({"negative_prompt": "blur", "guidance": 0.0}, "a negative_prompt needs guidance above 1"),
        ({"loras": [{"scale": 1}]}, r"loras\[0\].weights: missing"),
        ({"speed": "faster"}, "speed: 'faster' is not allowed; it must be 'exact', 'fast' or 'max'"),
        ({"speed": "fast", "dtype": "fp32"}, "dtype=fp32 contradicts speed=fast; remove one of them"),
        ({"speed": "max", "compile": False}, "compile=false contradicts speed=max; remove one of them"),
        ({"compile": True, "offload": "sequential"}, "offload=sequential replaces the weights of compiled code; use"),
        ({"offload": "model"}, "generator.offload 'model' needs a GPU, and num_gpus is 0; remove it"),
        ({"compile_cache": "cache"}, "compile_cache 'cache' is no absolute path or URL"),
    ],
)
def test_invalid_settings_are_errors_with_their_key(override: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe().with_values({f"synthesis.generator.{key}": value for key, value in override.items()})


def test_least_steps_of_the_refusal_are_enough() -> None:
    assert GeneratorSettings(steps=4, guide={"strength": 0.3}).steps == 4  # type: ignore[arg-type]


def test_type_and_compilation_follow_the_speed_unless_they_are_given() -> None:
    def held(recipe: Recipe) -> tuple[str, bool]:
        return recipe.synthesis.generator.dtype, recipe.synthesis.generator.compile

    fast = Recipe().with_values({"synthesis.generator.speed": "fast"})
    assert held(fast) == ("bf16", True)
    assert held(fast.with_values({"synthesis.generator.speed": "exact"})) == ("fp32", False)
    half = fast.with_values({"synthesis.generator.dtype": "fp16"})
    assert held(half) == ("fp16", True)
    assert held(half.with_values({"synthesis.generator.speed": "exact"})) == ("fp16", False)


def test_a_plan_of_default_settings_is_written_as_before_there_were_families() -> None:
    assert set(GeneratorSettings().model_dump()) == {
        "pipeline", "revision", "scheduler", "steps", "guidance", "negative_prompt", "height", "width", "batch_size",
        "dtype",
    }  # fmt: skip
