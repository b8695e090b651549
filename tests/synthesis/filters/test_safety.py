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


def test_the_pipelines_own_verdict_counts() -> None:
    images = [noise(0), noise(1)]
    images[0].info["nsfw"], images[1].info["nsfw"] = False, True
    assert Safety(SafetySettings()).score(batch(images)) == ([1.0, 0.0], [True, False])


def test_a_pipeline_that_says_nothing_is_reported() -> None:
    with pytest.raises(UserError, match="no safety flags"):
        Safety(SafetySettings()).score(batch([noise(0)]))


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random safety checker one of whose forbidden concepts is `noise(1)`."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 32, "patch_size": 8, "projection_dim": 16}
    torch.manual_seed(0)
    model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16)).eval()
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    with torch.inference_mode():
        pixels = processor([noise(1)], return_tensors="pt").pixel_values
        forbidden = model.visual_projection(model.vision_model(pixels)[1])
        model.concept_embeds.copy_(torch.nn.functional.normalize(torch.randn_like(model.concept_embeds), dim=-1))
        model.concept_embeds[3] = forbidden[0]
        model.concept_embeds_weights.fill_(1.0)
        model.concept_embeds_weights[3] = 0.999
        model.special_care_embeds_weights.fill_(1.0)
    folder = tmp_path_factory.mktemp("checker")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_checker_by_path_rejects_what_it_forbids(checker: Path) -> None:
    settings = with_safety_checksum(SafetySettings(checker=str(checker)))
    images = [noise(0), noise(1), noise(2)]
    before = [image.tobytes() for image in images]
    safety = Safety(settings)
    assert safety.score(batch(images)).keep == [True, False, True]
    assert [image.tobytes() for image in images] == before
    assert safety.blurred


def test_a_pipelines_own_checker_reaches_the_filter_from_a_real_call(checker: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessor

    prompts, seeds = ["a photo of a cat.", "a dog!"], [1, 2]
    folder = build_pipeline("sd", tmp_path / "plain")
    generated = Generator(GeneratorSettings(pipeline=str(folder), steps=2)).generate(prompts, seeds)
    model = StableDiffusionSafetyChecker.from_pretrained(checker)
    processor = CLIPImageProcessor.from_pretrained(checker)
    with torch.inference_mode():  # forbidden is what leads from the first image to the second
        pixels = processor(generated, return_tensors="pt").pixel_values
        cat, dog = torch.nn.functional.normalize(model.visual_projection(model.vision_model(pixels)[1]), dim=-1)
        model.concept_embeds[3] = dog - cat
        model.concept_embeds_weights[3] = 0.0
    plain = StableDiffusionPipeline.from_pretrained(folder)
    plain.register_modules(safety_checker=model, feature_extractor=processor)
    plain.save_pretrained(tmp_path / "own")
    images = Generator(GeneratorSettings(pipeline=str(tmp_path / "own"), steps=2)).generate(prompts, seeds)
    assert images[0].tobytes() == generated[0].tobytes()
    assert images[1].getextrema() == ((0, 0),) * 3  # the pipeline blackens what it flags
    assert Safety(SafetySettings()).score(batch(images)).keep == [True, False]
    assert Safety(with_safety_checksum(SafetySettings(checker=str(tmp_path / "own")))).score(batch(generated)).keep == [
        True,
        False,
    ]


def test_a_pipeline_without_a_checker_is_an_error_by_its_index(tmp_path: Path) -> None:
    index = tmp_path / "model_index.json"
    index.write_text('{"safety_checker": [null, null], "unet": ["diffusers", "UNet2DConditionModel"]}')
    asked = GeneratorSettings(pipeline=str(tmp_path))
    with pytest.raises(UserError, match="has no safety checker"):
        check_safety(SafetySettings(), asked)
    check_safety(SafetySettings(checker="elsewhere"), asked)
    check_safety(SafetySettings(), asked.model_copy(update={"pipeline_class": "own.module:Watchful"}))
    index.write_text('{"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}')
    check_safety(SafetySettings(), asked)


def test_another_checker_than_the_plans_is_an_error(checker: Path) -> None:
    settings = with_safety_checksum(SafetySettings(checker=str(checker)))
    with pytest.raises(UserError, match="not the checker that the set was started with"):
        Safety(settings.model_copy(update={"checksum": "0" * 16}))


def test_a_relative_checker_is_found_from_another_folder(
    checker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checker.parent)
    settings = with_absolute_paths([with_safety_checksum(SafetySettings(checker=checker.name))])
    monkeypatch.chdir(tmp_path)
    (safety,) = build_filters(settings, PROMPTS)
    assert safety.score(batch([noise(0), noise(1)])).keep == [True, False]


def test_a_folder_without_a_checker_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no safety checker"):
        with_safety_checksum(SafetySettings(checker=str(tmp_path)))
