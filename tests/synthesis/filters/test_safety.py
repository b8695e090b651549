from __future__ import annotations

from pathlib import Path

import pytest
import torch

from syncclip.core.settings import UserError
from syncclip.synthesis.filters import build_filters, with_absolute_paths
from syncclip.synthesis.filters.safety import Safety, SafetySettings, check_safety, with_safety_checksum
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from tests.synthesis.filters.conftest import PROMPTS, batch, noise
from tests.worlds.pipelines import build_pipeline


def test_the_pipelines_flags_are_used() -> None:
    images = [noise(0), noise(1)]
    with pytest.raises(UserError, match="no safety flags"):
        Safety(SafetySettings()).score(batch(images))
    images[0].info["nsfw"], images[1].info["nsfw"] = False, True
    assert Safety(SafetySettings()).score(batch(images)) == ([1.0, 0.0], [True, False])


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random safety checker that flags `noise(1)`."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8, "projection_dim": 16}
    torch.manual_seed(0)
    model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16)).eval()
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    with torch.inference_mode():
        pixels = processor([noise(1)], return_tensors="pt").pixel_values
        concept = model.visual_projection(model.vision_model(pixels)[1])
        model.concept_embeds.copy_(torch.nn.functional.normalize(torch.randn_like(model.concept_embeds), dim=-1))
        model.concept_embeds[3] = concept[0]
        model.concept_embeds_weights.fill_(1.0)
        model.concept_embeds_weights[3] = 0.999
        model.special_care_embeds_weights.fill_(1.0)
    folder = tmp_path_factory.mktemp("checker")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_checker_from_a_relative_path_flags_images_without_changing_them(
    checker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checker.parent)
    settings = with_absolute_paths([with_safety_checksum(SafetySettings(checker=checker.name))])
    monkeypatch.chdir(tmp_path)
    (safety,) = build_filters(settings, PROMPTS)
    images = [noise(0), noise(1), noise(2)]
    before = [image.tobytes() for image in images]
    assert safety.score(batch(images)).keep == [True, False, True] and safety.blurred
    assert [image.tobytes() for image in images] == before


def test_the_filter_receives_flags_from_a_pipelines_call(checker: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    prompts, seeds = ["a photo of a cat.", "a dog!"], [1, 2]
    folder = build_pipeline("sd", tmp_path / "plain")
    generated = Generator(GeneratorSettings(pipeline=str(folder), steps=2)).generate(prompts, seeds)
    model = StableDiffusionSafetyChecker.from_pretrained(checker)
    processor = CLIPImageProcessor.from_pretrained(checker)
    with torch.inference_mode():  # flags what distinguishes the second image from the first
        pixels = processor(generated, return_tensors="pt").pixel_values
        cat, dog = torch.nn.functional.normalize(model.visual_projection(model.vision_model(pixels)[1]), dim=-1)
        model.concept_embeds[3] = dog - cat
        model.concept_embeds_weights[3] = 0.0
    plain = StableDiffusionPipeline.from_pretrained(folder)
    plain.register_modules(safety_checker=model, feature_extractor=processor)
    plain.save_pretrained(tmp_path / "own")
    images = Generator(GeneratorSettings(pipeline=str(tmp_path / "own"), steps=2)).generate(prompts, seeds)
    assert images[0].tobytes() == generated[0].tobytes()
    assert images[1].getextrema() == ((0, 0),) * 3  # the pipeline blackens flagged images
    assert Safety(SafetySettings()).score(batch(images)).keep == [True, False]
    own = with_safety_checksum(SafetySettings(checker=str(tmp_path / "own")))
    assert Safety(own).score(batch(generated)).keep == [True, False]


def test_a_pipeline_without_a_checker_in_its_index_is_an_error(tmp_path: Path) -> None:
    index = tmp_path / "model_index.json"
    index.write_text('{"safety_checker": [null, null], "unet": ["diffusers", "UNet2DConditionModel"]}')
    generator = GeneratorSettings(pipeline=str(tmp_path))
    with pytest.raises(UserError, match="has no safety checker"):
        check_safety(SafetySettings(), generator)
    check_safety(SafetySettings(checker="elsewhere"), generator)
    check_safety(SafetySettings(), generator.model_copy(update={"pipeline_class": "own.module:Watchful"}))
    index.write_text('{"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}')
    check_safety(SafetySettings(), generator)


def test_another_checker_than_planned_and_a_missing_one_are_errors(checker: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the checker that the dataset was created with"):
        Safety(SafetySettings(checker=str(checker), checksum="0" * 16))
    with pytest.raises(UserError, match="has no safety checker"):
        with_safety_checksum(SafetySettings(checker=str(tmp_path)))
