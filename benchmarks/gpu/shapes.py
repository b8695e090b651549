"""Text-to-image models with published shapes and random weights; speed and memory do not depend on the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from syncclip.core.trust import trust
from syncclip.synthesis.generators.settings import GeneratorSettings
from tests.worlds.pipelines import FAMILIES as TINY
from tests.worlds.pipelines import clip_tokenizer, t5_tokenizer

CLASS = "benchmarks.gpu.shapes:RandomWeights"
INDEX = "model_index.json"
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A model with its authors' configuration and the usual settings.

    Attributes:
        pipeline, scheduler: class names in diffusers.
        parts: name -> class name in diffusers or transformers, and the non-default configuration values.
        side: image side in pixels.
        tiny: name of the small pipeline of the same class, for tests.
    """

    pipeline: str
    scheduler: str
    parts: Mapping[str, tuple[str, Config]]
    side: int
    steps: int
    guidance: float
    tiny: str

    def settings(self, folder: Path, **more: Any) -> GeneratorSettings:
        """Return the settings of a generator in bf16; `write_index` has written `folder`."""
        trust(CLASS)
        values = {"steps": self.steps, "guidance": self.guidance, "height": self.side, "width": self.side}
        return GeneratorSettings(pipeline=str(folder), pipeline_class=CLASS, **{**values, "dtype": "bf16", **more})


BLOCKS = (128, 256, 512, 512)
CLIP_L: Config = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G: Config = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
T5_XXL: Config = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}


def _vae(channels: int, **more: Any) -> tuple[str, Config]:
    return "AutoencoderKL", {
        "block_out_channels": BLOCKS,
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": channels,
        **more,
    }


def _sixteen(**more: Any) -> tuple[str, Config]:
    """Return the autoencoder of SD3 and FLUX, with 16 latent channels."""
    return _vae(16, use_quant_conv=False, use_post_quant_conv=False, **more)


FAMILIES = {
    "sd15": Family(
        pipeline="StableDiffusionPipeline",
        scheduler="DPMSolverMultistepScheduler",
        parts={
            "unet": ("UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}),
            "vae": _vae(4),
            "text_encoder": ("CLIPTextModel", CLIP_L),
        },
        side=512,
        steps=25,
        guidance=7.5,
        tiny="sd",
    ),
    "sdxl": Family(
        pipeline="StableDiffusionXLPipeline",
        scheduler="EulerDiscreteScheduler",
        parts={
            "unet": (
                "UNet2DConditionModel",
                {
                    "sample_size": 128,
                    "block_out_channels": (320, 640, 1280),
                    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                    "transformer_layers_per_block": (1, 2, 10),
                    "attention_head_dim": (5, 10, 20),
                    "cross_attention_dim": 2048,
                    "use_linear_projection": True,
                    "addition_embed_type": "text_time",
                    "addition_time_embed_dim": 256,
                    "projection_class_embeddings_input_dim": 2816,
                },
            ),
            "vae": _vae(4, scaling_factor=0.13025),
            "text_encoder": ("CLIPTextModel", CLIP_L),
            "text_encoder_2": ("CLIPTextModelWithProjection", {**CLIP_G, "projection_dim": 1280}),
        },
        side=1024,
        steps=30,
        guidance=5.0,
        tiny="sdxl",
    ),
    "sd3": Family(
        pipeline="StableDiffusion3Pipeline",
        scheduler="FlowMatchEulerDiscreteScheduler",
        parts={
            "transformer": (
                "SD3Transformer2DModel",
                {
                    "sample_size": 128,
                    "num_layers": 24,
                    "num_attention_heads": 24,
                    "caption_projection_dim": 1536,
                    "pos_embed_max_size": 192,
                },
            ),
            "vae": _sixteen(scaling_factor=1.5305, shift_factor=0.0609),
            "text_encoder": ("CLIPTextModelWithProjection", {**CLIP_L, "projection_dim": 768}),
            "text_encoder_2": ("CLIPTextModelWithProjection", {**CLIP_G, "projection_dim": 1280}),
            "text_encoder_3": ("T5EncoderModel", T5_XXL),
        },
        side=1024,
        steps=28,
        guidance=7.0,
        tiny="sd3",
    ),
    "flux": Family(
        pipeline="FluxPipeline",
        scheduler="FlowMatchEulerDiscreteScheduler",
        parts={
            "transformer": ("FluxTransformer2DModel", {}),  # the defaults are those of FLUX.1-schnell
            "vae": _sixteen(scaling_factor=0.3611, shift_factor=0.1159),
            "text_encoder": ("CLIPTextModel", CLIP_L),
            "text_encoder_2": ("T5EncoderModel", T5_XXL),
        },
        side=1024,
        steps=4,
        guidance=0.0,
        tiny="flux",
    ),
}


def write_index(folder: Path, family: str, tiny: bool = False) -> Path:
    """Write an index for `RandomWeights`, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(json.dumps({"_class_name": "RandomWeights", "family": family, "tiny": tiny}))
    return folder


class RandomWeights(diffusers.DiffusionPipeline):  # type: ignore[misc]
    """Create the pipeline that the folder's index describes, with random weights, on a GPU if available."""

    @classmethod
    def from_pretrained(cls, folder: str, *, torch_dtype: torch.dtype, **_: Any) -> Any:
        """Create a diffusers pipeline with scheduler, tokenizers and deterministic weights."""
        index = json.loads((Path(folder) / INDEX).read_bytes())
        family = FAMILIES[index["family"]]
        torch.manual_seed(0)
        if index["tiny"]:
            with torch.no_grad():
                return TINY[family.tiny]().to(torch_dtype)
        return build(family, "cuda" if torch.cuda.is_available() else "cpu", torch_dtype)


def build(family: Family, device: str, dtype: torch.dtype) -> Any:
    """Create the pipeline of a family on a device, or on "meta" for its shapes only."""
    scheduler = getattr(diffusers, family.scheduler)
    parts: dict[str, Any] = {"scheduler": scheduler(steps_offset=1) if "unet" in family.parts else scheduler()}
    with torch.device(device):
        parts |= {name: build_part(family, name, dtype) for name in family.parts}
    for name in [name for name in parts if name.startswith("text_encoder")]:
        make = t5_tokenizer if family.parts[name][0].startswith("T5") else clip_tokenizer
        parts[name.replace("text_encoder", "tokenizer")] = make()
    if "unet" in parts and "text_encoder_2" not in parts:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return getattr(diffusers, family.pipeline)(**parts)


def build_part(family: Family, name: str, dtype: torch.dtype) -> Any:
    """Create a component of a family with random weights, on torch's default device."""
    kind, config = family.parts[name]
    with _default(dtype):
        if hasattr(diffusers, kind):
            return getattr(diffusers, kind)(**config).eval()
        model, special = getattr(transformers, kind), {}
        if kind.startswith("CLIP"):
            tokenizer = clip_tokenizer()
            special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        return model(model.config_class(**config, **special)).eval()


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
