"""What the tests of generators share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.generators.settings import GeneratorSettings
from tests.worlds.pipelines import SIDE, build_pipeline


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., GeneratorSettings]:
    """family("sdxl", **settings) -> settings of a tiny pipeline of that family, 64 x 64, two steps."""
    root = tmp_path_factory.mktemp("families")

    def settings(name: str, **more: Any) -> GeneratorSettings:
        folder = build_pipeline(name, root / name)
        return GeneratorSettings(pipeline=str(folder), **{"steps": 2, "height": SIDE, "width": SIDE, **more})

    return settings


def settings_of(pipeline: Path, **settings: Any) -> GeneratorSettings:
    return GeneratorSettings(pipeline=str(pipeline), **{"steps": 2, **settings})


def make_lora(settings: GeneratorSettings, folder: Path) -> Path:
    """Save LoRA weights for a pipeline's denoiser into a folder, and return it."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = Generator(settings).pipeline
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
        with torch.no_grad():
            for name, weight in denoiser.named_parameters():
                if "lora_B" in name:
                    weight.normal_()
    part = "unet_lora_layers" if hasattr(pipeline, "unet") else "transformer_lora_layers"
    type(pipeline).save_lora_weights(str(folder), **{part: get_peft_model_state_dict(denoiser)})
    return folder
