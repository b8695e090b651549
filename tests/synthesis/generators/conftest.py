"""Fixtures of the generator tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from syncclip.synthesis.generators import loading
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from tests.worlds.pipelines import SIDE, build_pipeline

Family = Callable[..., GeneratorSettings]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def eager_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let torch.compile trace graphs without compiling kernels."""
    monkeypatch.setattr(loading, "BACKEND", "eager")
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """family("sdxl", **settings) -> settings of a tiny pipeline of that family, 64 x 64, two steps."""
    root = tmp_path_factory.mktemp("families")

    def settings(name: str, **values: Any) -> GeneratorSettings:
        folder = build_pipeline(name, root / name)
        return GeneratorSettings(pipeline=str(folder), **{"steps": 2, "height": SIDE, "width": SIDE, **values})

    return settings


def settings_of(pipeline: Path, **settings: Any) -> GeneratorSettings:
    return GeneratorSettings(pipeline=str(pipeline), **{"steps": 2, **settings})


def pixels(images: Sequence[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


def make_lora(settings: GeneratorSettings, folder: Path) -> Path:
    """Save LoRA weights for a pipeline's denoiser in a folder, and return it."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = Generator(settings).pipeline
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
        with torch.no_grad():
            for name, weight in pipeline.unet.named_parameters():
                if "lora_B" in name:
                    weight.normal_()
    type(pipeline).save_lora_weights(str(folder), unet_lora_layers=get_peft_model_state_dict(pipeline.unet))
    return folder
