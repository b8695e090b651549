"""Which pipelines are taken for text-to-image ones; what each family takes is in test_families.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from tests.synthesis.generators.conftest import settings_of

Family = Callable[..., GeneratorSettings]


@pytest.mark.parametrize(
    ("family_name", "other", "message"),
    [
        ("sd", "StableDiffusionImg2ImgPipeline", "needs 'image'; use a text-to-image pipeline"),
        ("sdxl", "StableDiffusionXLInpaintPipeline", "needs 'image'; use a text-to-image pipeline"),
        ("flux", "FluxImg2ImgPipeline", "needs 'image'; use a text-to-image pipeline"),
    ],
)
def test_a_pipeline_that_needs_an_image_is_an_error(
    family: Family, tmp_path: Path, family_name: str, other: str, message: str
) -> None:
    shutil.copytree(family(family_name).pipeline, tmp_path, dirs_exist_ok=True)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["_class_name"] = other
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"is a {other}, which {message}"):
        Generator(settings_of(tmp_path))


def test_its_text_to_image_class_may_be_named_instead(family: Family, tmp_path: Path) -> None:
    shutil.copytree(family("sd").pipeline, tmp_path, dirs_exist_ok=True)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionImg2ImgPipeline"
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    generator = Generator(settings_of(tmp_path, pipeline_class="StableDiffusionPipeline"))
    assert generator.generate(["a cat"], [1])[0].size == (64, 64)


def test_a_family_that_generates_with_images_and_without_is_taken(family: Family) -> None:
    assert Generator(family("flux", pipeline_class="FluxKontextPipeline")).generate(["a cat"], [1])[0].size == (64, 64)
