from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from tests.synthesis.generators.conftest import settings_of

PROMPTS = ["a photo of a cat.", "a photo of a dog."]


def test_the_same_batch_gives_the_same_bytes_from_a_generator_loaded_again(pipeline: Path) -> None:
    first, second = (Generator(settings_of(pipeline)).generate(PROMPTS, [5, 2**32 - 1]) for _ in range(2))
    assert [image.tobytes() for image in first] == [image.tobytes() for image in second]


def test_generating_prints_nothing(pipeline: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Generator(settings_of(pipeline)).generate(PROMPTS, [1, 2])
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def real() -> list[Image.Image]:
    """Two photographs: one dark, one light, of other sizes and modes than the pipeline's."""
    return [Image.new("L", (90, 70), 20), Image.new("RGB", (40, 80), (230, 220, 240))]


def brightness(image: Image.Image) -> float:
    return float(np.asarray(image, float).mean())


def test_a_weak_guide_gives_images_like_the_real_ones(pipeline: Path, real: list[Image.Image]) -> None:
    generator = Generator(settings_of(pipeline, steps=20, guide={"strength": 0.05}))
    dark, light = generator.generate(PROMPTS, [1, 2], real)
    other, _ = generator.generate(PROMPTS, [1, 2], [real[1], real[0]])
    assert dark.size == light.size == (64, 64)
    assert dark.tobytes() != other.tobytes()


def test_images_without_a_guide_are_those_of_text_alone_for_any_neighbours(
    pipeline: Path, real: list[Image.Image]
) -> None:
    free = Generator(settings_of(pipeline)).generate(PROMPTS, [1, 2])
    generator = Generator(settings_of(pipeline, guide={}))
    mixed = generator.generate([PROMPTS[0], "a boat", PROMPTS[1]], [1, 7, 2], [None, real[0], None])
    assert [mixed[0].tobytes(), mixed[2].tobytes()] == [one.tobytes() for one in free]
    guided = generator.generate(["a boat"], [7], [real[0]])
    assert mixed[1].tobytes() == guided[0].tobytes()


def test_size_is_obeyed_with_a_guide(pipeline: Path, real: list[Image.Image]) -> None:
    generator = Generator(settings_of(pipeline, height=32, width=48, guide={}))
    assert generator.generate(PROMPTS, [1, 2], [real[0], None])[0].size == (48, 32)


def test_what_generates_from_torchs_own_generator_is_a_function_of_the_batch_all_the_same(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from diffusers import DPMSolverMultistepScheduler

    step = DPMSolverMultistepScheduler.step

    def noisy(self: Any, output: Any, *args: Any, **more: Any) -> Any:
        return step(self, output + 0.3 * torch.randn_like(output), *args, **more)

    monkeypatch.setattr(DPMSolverMultistepScheduler, "step", noisy)
    generator = Generator(settings_of(pipeline))
    torch.manual_seed(5)
    first, state = generator.generate(PROMPTS, [1, 2]), torch.get_rng_state()
    torch.manual_seed(6)
    second = generator.generate(PROMPTS, [1, 2])
    assert [one.tobytes() for one in first] == [one.tobytes() for one in second]
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())


def test_the_embedded_pipeline_generates_what_is_like_its_guide() -> None:
    images = load_dataset(DatasetSettings()).split("train")
    other = int(np.flatnonzero(images.labels != images.labels[0])[0])
    real = [images.image(0), images.image(other)]
    settings = GeneratorSettings(steps=10, guide={"strength": 0.2})  # type: ignore[arg-type]
    generated = Generator(settings).generate(["a drawing."] * 2, [1, 2], real)

    def distance(one: Image.Image, other: Image.Image) -> float:
        pair = [np.asarray(image.resize((64, 64)), float) for image in (one, other)]
        return float(np.abs(pair[0] - pair[1]).mean())

    assert distance(generated[0], real[0]) < 0.5 * distance(generated[0], real[1])
    assert distance(generated[1], real[1]) < 0.5 * distance(generated[1], real[0])


def test_a_batch_too_large_for_memory_is_reported_and_may_be_retried(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    def full(self: Any, *args: Any, **more: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    generator = Generator(settings_of(pipeline))
    monkeypatch.setattr(StableDiffusionPipeline, "__call__", full)
    with pytest.raises(torch.OutOfMemoryError, match="make batch_size smaller, or try synthesis.generator.offload"):
        generator.generate(PROMPTS, [1, 2])
