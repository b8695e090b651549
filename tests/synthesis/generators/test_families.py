"""Each family of text-to-image pipelines, tiny and with random weights: what images depend on, what is obeyed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from tests.worlds.pipelines import FAMILIES

Family = Callable[..., GeneratorSettings]
PROMPTS = ["a photo of a cat.", "a dog!", "a fir tree, at night"]
SEEDS = [1, 2**32 - 1, 3]

START_FROM_IMAGES = ("sd", "turbo", "lcm", "sdxl", "sd3", "flux")


@pytest.fixture(scope="module", params=FAMILIES)
def generator(family: Family, request: pytest.FixtureRequest) -> Generator:
    return Generator(family(request.param))


def generate(generator: Generator, rows: list[int]) -> list[bytes]:
    images = generator.generate([PROMPTS[i] for i in rows], [SEEDS[i] for i in rows])
    return [image.tobytes() for image in images]


def test_a_batch_has_the_same_bytes_whatever_was_generated_before(generator: Generator) -> None:
    first = generate(generator, [0, 1, 2])
    generate(generator, [2, 0])
    assert generate(generator, [0, 1, 2]) == first
    assert len(set(first)) == 3


def test_an_image_has_the_same_bytes_among_any_neighbours(generator: Generator) -> None:
    ordered, other = generate(generator, [0, 1, 2]), generate(generator, [0, 2, 2])
    assert [other[0], other[2]] == [ordered[0], ordered[2]]


@pytest.mark.parametrize("batches", [[[2, 0, 1]], [[0], [1], [2]]], ids=["another place", "another batch size"])
def test_elsewhere_in_a_batch_or_in_another_only_last_bits_differ(
    generator: Generator, batches: list[list[int]]
) -> None:
    together = generate(generator, [0, 1, 2])
    for rows in batches:
        for row, data in zip(rows, generate(generator, rows), strict=True):
            difference = np.frombuffer(together[row], np.uint8).astype(int) - np.frombuffer(data, np.uint8)
            assert np.abs(difference).max() <= 2


def test_images_depend_on_prompt_and_seed(generator: Generator) -> None:
    one, other_seed = generator.generate([PROMPTS[0]] * 2, [1, 2])
    other_prompt, _ = generator.generate([PROMPTS[1], PROMPTS[0]], [1, 2])
    assert one.size == (64, 64) and one.mode == "RGB"
    assert len({one.tobytes(), other_seed.tobytes(), other_prompt.tobytes()}) == 3


@pytest.mark.parametrize("name", START_FROM_IMAGES)
def test_a_guided_image_depends_on_its_real_one_and_on_nothing_beside_it(family: Family, name: str) -> None:
    generator = Generator(family(name, steps=4, guide={"strength": 0.5}))
    dark, light = Image.new("RGB", (80, 60), (20, 10, 30)), Image.new("L", (50, 90), 230)
    first = generator.generate(PROMPTS, SEEDS, [dark, light, None])
    again = generator.generate(PROMPTS[::-1], SEEDS[::-1], [None, light, dark])
    assert [one.tobytes() for one in again] == [one.tobytes() for one in first[::-1]]
    exchanged = generator.generate(PROMPTS, SEEDS, [light, dark, None])
    assert exchanged[0].tobytes() != first[0].tobytes()
    assert exchanged[2].tobytes() == first[2].tobytes()


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(START_FROM_IMAGES)))
def test_a_guide_is_an_error_where_a_family_cannot_start_from_images(family: Family, name: str) -> None:
    with pytest.raises(UserError, match=r"synthesis.generator.guide: a \w+Pipeline can't start from real images"):
        Generator(family(name, guide={}))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lcm", {"negative_prompt": "blur"}, "negative_prompt: a LatentConsistencyModelPipeline has none; remove it"),
        ("flux", {"negative_prompt": "blur"}, "negative_prompt: a FluxPipeline needs true_guidance"),
        ("sd", {"true_guidance": 3.0}, "true_guidance: a StableDiffusionPipeline has none; use guidance instead"),
        ("flux", {"width": 72}, "width: 72 pixels is not a multiple of 16, which a FluxPipeline needs; try 64"),
        ("sd3", {"height": 56}, "height: 56 pixels is not a multiple of 16, which a StableDiffusion3Pipeline needs"),
        ("pixart", {"height": 104}, "height: 104 pixels is not a multiple of 16, which a PixArtAlphaPipeline needs"),
        ("sana", {"height": 80}, "height: 80 pixels is not a multiple of 32, which a SanaPipeline needs; try 64"),
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
        ("sana", {"negative_prompt": "blur"}),
        ("turbo", {"guidance": 0.0}),
        ("sdxl", {"scheduler": "UniPCMultistepScheduler"}),
        ("sd", {"dtype": "bf16"}),
    ],
)
def test_supported_settings_change_images(family: Family, name: str, settings: dict[str, Any]) -> None:
    plain, changed = (Generator(family(name, **more)).generate(PROMPTS[:2], SEEDS[:2]) for more in ({}, settings))
    assert plain[0].tobytes() != changed[0].tobytes()
    assert changed[0].size == (64, 64)
