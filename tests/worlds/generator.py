"""A tiny text-to-image pipeline: a Stable Diffusion folder with random weights, 64 x 64 images in milliseconds."""

from __future__ import annotations

import string
from pathlib import Path


def build_generator(folder: Path, seed: int = 0) -> Path:
    """Save a random-weight `StableDiffusionPipeline` (about 1 MB) into `folder` and return it.

    The images mean nothing, but they are colourful, differ with prompt and seed, and are a pure function of
    `seed` here and of prompt, image's seed and settings there. The folder has the layout of the big ones:
    CLIP tokenizer and text tower, UNet on 4 x 8 x 8 latents, 8-fold AutoencoderTiny, DPM-Solver++.
    """
    if (folder / "model_index.json").exists():
        return folder
    import torch
    from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # of saving a megabyte

    characters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = ["<pad>", *characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: position for position, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=48, pad_token="<pad>")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=48,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=0,
            )
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4,
            decoder_block_out_channels=(8,) * 4,
            num_encoder_blocks=(0, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 0),
        )
    with torch.no_grad():  # random networks whisper: let the decoder use the range and the prompt be heard
        vae.decoder.layers[-1].weight *= 6
        for name, weight in text_encoder.named_parameters():
            if name.endswith("final_layer_norm.weight"):
                weight *= 20
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder
