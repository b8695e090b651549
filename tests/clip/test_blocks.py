"""fp16 serves where it is safe, and says what to use elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from syncclip.clip.backbone import BackboneSettings, load_backbone
from syncclip.clip.blocks import autocast, float32
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from tests.worlds.clip import make_clip_folder


def test_fp16_is_refused_without_a_gpu(tmp_path: Path) -> None:
    settings = BackboneSettings(name=str(make_clip_folder(tmp_path)), precision="fp16")
    with pytest.raises(UserError, match="fp16 requires a GPU"):
        PromptedClip(load_backbone(settings)).encode_images(torch.zeros(1, 3, 32, 32))


def test_fp16_is_refused_where_something_is_learned() -> None:
    prompts = [torch.zeros(2, 8, requires_grad=True)]
    with pytest.raises(UserError, match="train in bf16 or fp32"):
        autocast("fp16", torch.device("cuda"), prompts)


def test_fp16_that_overflows_is_told() -> None:
    features = torch.tensor([[1.0, torch.inf]], dtype=torch.float16)
    with pytest.raises(UserError, match="overflow in fp16"):
        float32(features, "fp16")
    assert float32(features[:, :1], "fp16").dtype == torch.float32
