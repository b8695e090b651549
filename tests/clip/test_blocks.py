"""fp16: supported for evaluation on GPUs, an error elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from syncclip.clip.backbone import Backbone
from syncclip.clip.blocks import autocast, float32
from syncclip.clip.inserted import Inserted
from syncclip.clip.parts import BlockPart
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError


class Learned(BlockPart):
    """A part with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))


def test_fp16_requires_a_gpu(backbone: Backbone) -> None:
    with pytest.raises(UserError, match="fp16 requires a GPU"):
        PromptedClip(replace(backbone, precision="fp16")).encode_images(torch.zeros(1, 3, 32, 32))


def test_training_in_fp16_is_an_error(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.zeros(2, 8, requires_grad=True)
    with pytest.raises(UserError, match="train in bf16 or fp32"):
        autocast("fp16", torch.device("cuda"), [vectors])
    monkeypatch.setattr(PromptedClip, "device", torch.device("cuda"))
    half = PromptedClip(replace(backbone, precision="fp16"))
    for parts, inserted in (([Learned()], None), ([], Inserted({1: vectors}))):
        with pytest.raises(UserError, match="train in bf16 or fp32"):
            half._autocast((), parts, inserted)


def test_overflow_in_fp16_is_an_error() -> None:
    features = torch.tensor([[1.0, torch.inf]], dtype=torch.float16)
    with pytest.raises(UserError, match="overflow in fp16"):
        float32(features, "fp16")
    assert float32(features[:, :1], "fp16").dtype == torch.float32
