from __future__ import annotations

from typing import Any

import pytest

from syncclip.core.settings import UserError
from syncclip.recipe.recipe import Recipe
from syncclip.synthesis.generators.settings import GeneratorSettings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size: 0 is not a valid batch size; use a positive integer, or 'auto'"),
        ({"batch_size": "many"}, "batch_size: 'many' is not a valid batch size"),
        ({"attention": "auto"}, "attention: 'auto' is not allowed; it must be 'sdpa'"),
        ({"height": 512, "width": 512}, "generates images of 64 x 64 pixels, not 512"),
        ({"height": 100}, "height: 100 is not allowed .*multiple of 8"),
        ({"guide": {"strength": 0}}, "guide.strength: 0 is not allowed"),
        ({"guide": {"strength": 0.3}, "steps": 3}, "strength 0.3 leave no denoising steps; use at least 4"),
        ({"negative_prompt": "blur", "guidance": 0.0}, "negative_prompt needs guidance above 1"),
        ({"loras": [{"scale": 1}]}, r"loras\[0\].weights: missing"),
        ({"speed": "faster"}, "speed: 'faster' is not allowed"),
        ({"speed": "fast", "dtype": "fp32"}, "dtype=fp32 contradicts speed=fast"),
        ({"speed": "max", "compile": False}, "compile=false contradicts speed=max"),
        ({"compile": True, "offload": "sequential"}, "offload=sequential doesn't support compile"),
        ({"offload": "model"}, "generator.offload 'model' needs a GPU"),
        ({"compile_cache": "cache"}, "compile_cache 'cache' must be an absolute path or a URL"),
    ],
)
def test_invalid_settings_are_errors_with_their_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recipe().with_values({f"synthesis.generator.{key}": value for key, value in values.items()})


def test_the_suggested_number_of_steps_is_valid() -> None:
    assert GeneratorSettings(steps=4, guide={"strength": 0.3}).steps == 4  # type: ignore[arg-type]


def test_defaults_of_dtype_and_compile_depend_on_the_speed() -> None:
    def values(recipe: Recipe) -> tuple[str, bool]:
        return recipe.synthesis.generator.dtype, recipe.synthesis.generator.compile

    fast = Recipe().with_values({"synthesis.generator.speed": "fast"})
    assert values(fast) == ("bf16", True)
    assert values(fast.with_values({"synthesis.generator.speed": "exact"})) == ("fp32", False)
    fp16 = fast.with_values({"synthesis.generator.dtype": "fp16"})
    assert values(fp16) == ("fp16", True)
    assert values(fp16.with_values({"synthesis.generator.speed": "exact"})) == ("fp16", False)


def test_keys_of_a_plan_with_default_settings_are_stable() -> None:
    assert set(GeneratorSettings().model_dump()) == {
        "pipeline", "revision", "scheduler", "steps", "guidance", "negative_prompt", "height", "width", "batch_size",
        "dtype",
    }  # fmt: skip
