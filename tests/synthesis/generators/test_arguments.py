from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.synthesis.generators.pipeline import Generator
from tests.synthesis.generators.conftest import Family, settings_of


@pytest.mark.parametrize(
    ("name", "pipeline_class"),
    [
        ("sd", "StableDiffusionImg2ImgPipeline"),
        ("sdxl", "StableDiffusionXLInpaintPipeline"),
        ("flux", "FluxImg2ImgPipeline"),
    ],
)
def test_a_pipeline_that_needs_an_image_is_an_error(
    family: Family, tmp_path: Path, name: str, pipeline_class: str
) -> None:
    shutil.copytree(family(name).pipeline, tmp_path, dirs_exist_ok=True)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": pipeline_class}))
    with pytest.raises(UserError, match=f"is a {pipeline_class}, which needs 'image'"):
        Generator(settings_of(tmp_path))
    if name == "sd":
        generator = Generator(settings_of(tmp_path, pipeline_class="StableDiffusionPipeline"))
        assert generator.generate(["a cat"], [1])[0].size == (64, 64)


def test_a_pipeline_with_an_optional_image_is_supported(family: Family) -> None:
    assert Generator(family("flux", pipeline_class="FluxKontextPipeline")).generate(["a cat"], [1])[0].size == (64, 64)
