from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.synthesis.generators.pipeline import Generator, random_generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from tests.synthesis.generators.conftest import pixels, settings_of

PROMPTS = ["a photo of a cat.", "a photo of a dog."]
REAL = [Image.new("L", (90, 70), 20), Image.new("RGB", (40, 80), (230, 220, 240))]


def test_a_reloaded_generator_gives_the_same_bytes_and_prints_nothing(
    pipeline: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = (Generator(settings_of(pipeline)).generate(PROMPTS, [5, 2**32 - 1]) for _ in range(2))
    assert pixels(first) == pixels(second)
    assert capfd.readouterr() == ("", "")


def test_an_image_depends_on_all_36_bits_of_its_seed(pipeline: Path) -> None:
    seeds = [5, 5 | 1 << 32, 5 | 15 << 32]
    images = pixels(Generator(settings_of(pipeline)).generate(PROMPTS[:1] * 3, seeds))
    assert len({*images}) == 3


def test_sections_of_a_random_sequence_have_different_noise() -> None:
    noise = [torch.randn(4096, generator=random_generator(5 | section << 32)) for section in range(3)]
    assert noise[0].equal(torch.randn(4096, generator=torch.Generator().manual_seed(5)))
    correlation = torch.corrcoef(torch.stack(noise)) - torch.eye(3)
    assert correlation.abs().max() < 0.1


def test_images_without_a_guide_do_not_depend_on_guided_ones(pipeline: Path) -> None:
    unguided = pixels(Generator(settings_of(pipeline)).generate(PROMPTS, [1, 2]))
    generator = Generator(settings_of(pipeline, guide={}))
    mixed = pixels(generator.generate([PROMPTS[0], "a boat", PROMPTS[1]], [1, 7, 2], [None, REAL[0], None]))
    assert [mixed[0], mixed[2]] == unguided
    assert pixels(generator.generate(["a boat"], [7], [REAL[0]])) == [mixed[1]]


def test_guided_images_have_the_size_of_the_settings(pipeline: Path) -> None:
    generator = Generator(settings_of(pipeline, height=32, width=48, guide={}))
    assert generator.generate(PROMPTS, [1, 2], [REAL[0], None])[0].size == (48, 32)


def test_torchs_global_generator_is_seeded_for_each_batch_and_restored(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import DPMSolverMultistepScheduler

    step = DPMSolverMultistepScheduler.step

    def noisy(self: Any, output: Any, *args: Any, **kwargs: Any) -> Any:
        return step(self, output + 0.3 * torch.randn_like(output), *args, **kwargs)

    monkeypatch.setattr(DPMSolverMultistepScheduler, "step", noisy)
    generator = Generator(settings_of(pipeline))
    torch.manual_seed(5)
    first, state = generator.generate(PROMPTS, [1, 2]), torch.get_rng_state()
    torch.manual_seed(6)
    assert pixels(generator.generate(PROMPTS, [1, 2])) == pixels(first)
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())


def test_images_of_the_embedded_pipeline_resemble_their_guides() -> None:
    images = load_dataset(DatasetSettings()).split("train")
    other = int(np.flatnonzero(images.labels != images.labels[0])[0])
    real = [images.image(0), images.image(other)]
    settings = GeneratorSettings(steps=10, guide={"strength": 0.2})  # type: ignore[arg-type]
    generated = Generator(settings).generate(["a drawing."] * 2, [1, 2], real)

    def distance(image: Image.Image, other: Image.Image) -> float:
        pair = [np.asarray(picture.resize((64, 64)), float) for picture in (image, other)]
        return float(np.abs(pair[0] - pair[1]).mean())

    assert distance(generated[0], real[0]) < 0.5 * distance(generated[0], real[1])
    assert distance(generated[1], real[1]) < 0.5 * distance(generated[1], real[0])


def test_a_batch_that_does_not_fit_into_memory_may_be_retried(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import StableDiffusionPipeline

    def out_of_memory(self: Any, *args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    generator = Generator(settings_of(pipeline))
    monkeypatch.setattr(StableDiffusionPipeline, "__call__", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError, match="reduce batch_size, or try synthesis.generator.offload"):
        generator.generate(PROMPTS, [1, 2])
