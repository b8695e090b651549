"""Tiny text-to-image pipelines of each family, with random weights: a few megabytes, milliseconds per image."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE = 64
"""Default height and width of their images in pixels."""

CHARACTERS = string.ascii_letters + string.digits + string.punctuation


def build_pipeline(family: str, folder: Path, seed: int = 0) -> Path:
    """Save a pipeline of one of `FAMILIES`, with weights that depend on the seed; returns the folder."""
    if (folder / "model_index.json").exists():
        return folder
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging

    logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        pipeline = smallest() if family == "smallest" else FAMILIES[family]()
        decoder = pipeline.vae.decoder
        last = getattr(decoder, "conv_out", None) or decoder.layers[-1]
        last.weight *= 6  # random weights give little contrast
    pipeline.save_pretrained(folder)
    return folder


def build_generator(folder: Path, seed: int = 0) -> Path:
    """Save the smallest Stable Diffusion pipeline (about 1 MB), with 8-fold AutoencoderTiny and DPM-Solver++.

    Its images are meaningless but colourful; they differ between prompts and seeds.
    """
    return build_pipeline("smallest", folder, seed)


def smallest() -> Any:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    tokenizer = clip_tokenizer(string.ascii_lowercase + string.digits + string.punctuation, 48)
    text_encoder, unet = _clip(tokenizer=tokenizer, layers=1, projection_dim=512), _unet()
    return StableDiffusionPipeline(
        vae=_tiny_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**BETAS),
        **NO_SAFETY_CHECKER,
    )


def stable_diffusion() -> Any:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=_tiny_vae(),
        text_encoder=_clip(),
        tokenizer=clip_tokenizer(),
        unet=_unet(),
        scheduler=DPMSolverMultistepScheduler(**BETAS),
        **NO_SAFETY_CHECKER,
    )


def turbo() -> Any:
    """Like SD-Turbo: an ancestral scheduler with trailing timesteps for one step or a few."""
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=_kl_vae(4),
        text_encoder=_clip(),
        tokenizer=clip_tokenizer(),
        unet=_unet(),
        scheduler=EulerAncestralDiscreteScheduler(timestep_spacing="trailing", **BETAS),
        **NO_SAFETY_CHECKER,
    )


def latent_consistency() -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    return LatentConsistencyModelPipeline(
        vae=_tiny_vae(),
        text_encoder=_clip(),
        tokenizer=clip_tokenizer(),
        unet=_unet(time_cond_proj_dim=8),
        scheduler=LCMScheduler(**BETAS),
        **NO_SAFETY_CHECKER,
    )


def stable_diffusion_xl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    unet = _unet(
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        transformer_layers_per_block=1,
        use_linear_projection=True,
    )
    return StableDiffusionXLPipeline(
        vae=_kl_vae(4),
        text_encoder=_clip(),
        text_encoder_2=_clip(projection=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**BETAS),
    )


def stable_diffusion_3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_kl_vae(4, shift_factor=0.06),
        text_encoder=_clip(projection=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_clip(projection=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=_t5(64),
        tokenizer_3=t5_tokenizer(),
    )


def flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_kl_vae(4, shift_factor=0.1),
        text_encoder=_clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_t5(32),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )
    pipeline.default_sample_size = 8
    return pipeline


def pixart() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    transformer = PixArtTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        cross_attention_dim=32,
        caption_channels=32,
        use_additional_conditions=False,
    )
    return PixArtAlphaPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=_t5(32),
        vae=_kl_vae(4),
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(),
    )


def sana() -> Any:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    words = {token: number for number, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "▁", *CHARACTERS])}
    tokenizer = GemmaTokenizer(vocab=words, merges=[], model_max_length=64)
    text_encoder = Gemma2Model(
        Gemma2Config(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=4096,
        )
    )
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=2,
    )
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock",) * 6,
        decoder_block_types=("ResBlock",) * 6,
        encoder_block_out_channels=(8,) * 6,
        decoder_block_out_channels=(8,) * 6,
        encoder_layers_per_block=(1,) * 6,
        decoder_layers_per_block=(1,) * 6,
        encoder_qkv_multiscales=((),) * 6,
        decoder_qkv_multiscales=((),) * 6,
        upsample_block_type="interpolate",
        downsample_block_type="stride_conv",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    scheduler = DPMSolverMultistepScheduler(
        flow_shift=3.0, use_flow_sigmas=True, prediction_type="flow_prediction", final_sigmas_type="zero"
    )
    return SanaPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
    )


FAMILIES: dict[str, Callable[[], Any]] = {
    "sd": stable_diffusion,
    "turbo": turbo,
    "lcm": latent_consistency,
    "sdxl": stable_diffusion_xl,
    "sd3": stable_diffusion_3,
    "flux": flux,
    "pixart": pixart,
    "sana": sana,
}

NO_SAFETY_CHECKER: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}
BETAS: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps_offset": 1,
}


def _unet(cross_attention_dim: int = 32, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=4,
        norm_num_groups=8,
        **more,
    )


def _tiny_vae() -> Any:
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(0, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 0),
    )


def _kl_vae(channels: int, **more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **more,
    )


def _clip(projection: bool = False, tokenizer: Any = None, layers: int = 2, projection_dim: int = 32) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = tokenizer or clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=projection_dim,
    )
    return _amplified(CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config))


def clip_tokenizer(characters: str = CHARACTERS, context: int = 77) -> Any:
    from transformers import CLIPTokenizer

    tokens = ["<pad>", *characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=context, pad_token="<pad>")


def _t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=4, dropout_rate=0.0
    )
    return _amplified(T5EncoderModel(config))


def t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -1.0),
        *((character, -2.0) for character in CHARACTERS),
    ]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=77)


def _amplified(text_encoder: Any) -> Any:
    """Scale the output, which with random weights hardly differs between prompts."""
    for name, weight in text_encoder.named_parameters():
        if name.endswith("final_layer_norm.weight"):
            weight *= 20
    return text_encoder


def __getattr__(name: str) -> Any:
    """Define the custom pipeline class `Inverted` on access, since importing diffusers takes seconds."""
    if name != "Inverted":
        raise AttributeError(name)
    from functools import wraps

    from diffusers import StableDiffusionPipeline
    from PIL import ImageOps

    class Inverted(StableDiffusionPipeline):  # type: ignore[misc]
        """Stable Diffusion with inverted colours."""

        @wraps(StableDiffusionPipeline.__call__)
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            output = super().__call__(*arguments, **options)
            output.images = [ImageOps.invert(image.convert("RGB")) for image in output.images]
            return output

    return Inverted
