"""Random weights have the published shapes, and generate images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.gpu.shapes import FAMILIES, build

pytestmark = pytest.mark.nightly

PUBLISHED = {
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    "sd3": {
        "transformer": 2_028_328_000,
        "vae": 83_819_683,
        "text_encoder": 123_650_304,
        "text_encoder_2": 694_659_840,
        "text_encoder_3": 4_762_310_656,
    },
    "flux": {
        "transformer": 11_891_178_560,
        "vae": 83_819_683,
        "text_encoder": 123_060_480,
        "text_encoder_2": 4_762_310_656,
    },
}
"""Number of parameters of the published weights."""

SMALL: dict[str, dict[str, Any]] = {
    "CLIPTextModel": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "T5EncoderModel": {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4},
    "AutoencoderKL": {"block_out_channels": (32,) * 4, "layers_per_block": 1},
    "UNet2DConditionModel": {"layers_per_block": 1, "attention_head_dim": 4},
    "SD3Transformer2DModel": {
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "caption_projection_dim": 32,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 64,
    },
    "FluxTransformer2DModel": {
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 4, 8),
    },
}
SMALL["CLIPTextModelWithProjection"] = {**SMALL["CLIPTextModel"], "projection_dim": 32}
UNETS = {
    "sd15": {"block_out_channels": (32,) * 4, "cross_attention_dim": 32},
    "sdxl": {
        "block_out_channels": (32,) * 3,
        "cross_attention_dim": 64,
        "transformer_layers_per_block": 1,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
    },
}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_component_has_the_published_number_of_parameters(name: str) -> None:
    pipeline = build(FAMILIES[name], "meta", torch.bfloat16)
    assert PUBLISHED[name] == {
        part: sum(weight.numel() for weight in getattr(pipeline, part).parameters()) for part in FAMILIES[name].parts
    }


def shrunk(name: str) -> Mapping[str, Any]:
    """Components of a family with fewer and narrower layers."""
    parts = FAMILIES[name].parts.items()
    more = UNETS.get(name, {})
    return {
        part: (kind, {**config, **SMALL[kind], **(more if part == "unet" else {})}) for part, (kind, config) in parts
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_components_generate_an_image(name: str) -> None:
    pipeline = build(replace(FAMILIES[name], parts=shrunk(name)), "cpu", torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    (image,) = pipeline("a photo of a cat", height=64, width=64, num_inference_steps=1).images
    assert image.size == (64, 64)
    assert {getattr(pipeline, part).dtype for part in FAMILIES[name].parts} == {torch.bfloat16}
