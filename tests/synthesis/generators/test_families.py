"""Tiny pipelines of each text-to-image family, with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.synthesis.generators.pipeline import Generator
from tests.synthesis.generators.conftest import Family, pixels
from tests.worlds.pipelines import FAMILIES

PROMPTS = ["a photo of a cat.", "a dog!", "a fir tree, at night"]
SEEDS = [1, 2**32 - 1, 3]

IMAGE_TO_IMAGE = ("sd", "turbo", "lcm", "sdxl", "sd3", "flux")


@pytest.fixture(scope="module", params=FAMILIES)
def generator(family: Family, request: pytest.FixtureRequest) -> Generator:
    return Generator(family(request.param))


def generate(generator: Generator, rows: list[int]) -> list[bytes]:
    return pixels(generator.generate([PROMPTS[i] for i in rows], [SEEDS[i] for i in rows]))


def test_an_image_is_a_function_of_prompt_seed_and_position(generator: Generator) -> None:
    first, other = generate(generator, [0, 1, 2]), generate(generator, [0, 2, 2])
    assert generate(generator, [0, 1, 2]) == first and len(set(first)) == 3
    assert [other[0], other[2]] == [first[0], first[2]]
    same_prompt, same_seed = generator.generate([PROMPTS[0], PROMPTS[1]], [SEEDS[1], SEEDS[0]])
    assert same_seed.size == (64, 64) and same_seed.mode == "RGB"
    assert len({first[0], *pixels([same_prompt, same_seed])}) == 3


@pytest.mark.parametrize("batches", [[[2, 0, 1]], [[0], [1], [2]]], ids=["another position", "another batch size"])
def test_only_last_bits_depend_on_position_and_batch_size(generator: Generator, batches: list[list[int]]) -> None:
    expected = generate(generator, [0, 1, 2])
    for rows in batches:
        for row, data in zip(rows, generate(generator, rows), strict=True):
            difference = np.frombuffer(expected[row], np.uint8).astype(int) - np.frombuffer(data, np.uint8)
            assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("name", IMAGE_TO_IMAGE)
def test_a_guided_image_depends_on_its_real_image_alone(family: Family, name: str) -> None:
    generator = Generator(family(name, steps=4, guide={"strength": 0.5}))
    dark, light = Image.new("RGB", (80, 60), (20, 10, 30)), Image.new("L", (50, 90), 230)
    first = pixels(generator.generate(PROMPTS, SEEDS, [dark, light, None]))
    assert pixels(generator.generate(PROMPTS[::-1], SEEDS[::-1], [None, light, dark])) == first[::-1]
    exchanged = pixels(generator.generate(PROMPTS, SEEDS, [light, dark, None]))
    assert exchanged[0] != first[0] and exchanged[2] == first[2]


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(IMAGE_TO_IMAGE)))
def test_a_guide_without_an_image_to_image_pipeline_is_an_error(family: Family, name: str) -> None:
    with pytest.raises(UserError, match=r"synthesis.generator.guide: a \w+Pipeline can't start from real images"):
        Generator(family(name, guide={}))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lcm", {"negative_prompt": "blur"}, "negative_prompt: a LatentConsistencyModelPipeline doesn't support"),
        ("flux", {"negative_prompt": "blur"}, "negative_prompt: a FluxPipeline also needs true_guidance"),
        ("sd", {"true_guidance": 3.0}, "true_guidance: a StableDiffusionPipeline doesn't support true"),
        ("flux", {"width": 72}, "width is 72, .* requires a multiple of 16 pixels; try 64"),
        ("sd3", {"height": 56}, "height is 56, .* requires a multiple of 16 pixels"),
        ("pixart", {"height": 104}, "height is 104, .* requires a multiple of 16 pixels"),
        ("sana", {"height": 80}, "height is 80, .* requires a multiple of 32 pixels"),
    ],
)
def test_an_unsupported_setting_is_an_error(family: Family, name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Generator(family(name, **settings))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("flux", {"true_guidance": 3.0}),
        ("flux", {"true_guidance": 3.0, "negative_prompt": "blur"}),
        ("flux", {"guidance": 1.5}),
        ("lcm", {"guidance": 9.0}),
        ("sdxl", {"negative_prompt": "blur"}),
        ("sd3", {"negative_prompt": "blur"}),
        ("pixart", {"negative_prompt": "blur"}),
        pytest.param("sana", {"negative_prompt": "blur"}, marks=pytest.mark.nightly),
        ("turbo", {"guidance": 0.0}),
        ("sdxl", {"scheduler": "UniPCMultistepScheduler"}),
        ("sd", {"dtype": "bf16"}),
    ],
)
def test_supported_settings_change_images(family: Family, name: str, settings: dict[str, Any]) -> None:
    plain, changed = (Generator(family(name, **values)).generate(PROMPTS[:2], SEEDS[:2]) for values in ({}, settings))
    assert plain[0].tobytes() != changed[0].tobytes()
    assert changed[0].size == (64, 64)
