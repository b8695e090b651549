"""Pretrain the tiny latent-diffusion pipeline of `icons` on all pretraining icon sets.

The autoencoder is trained first, then the UNet together with its own text tower, which is independent of CLIP.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderTiny,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .flat import COLOURS, Look, flat
from .masks import Masks
from .resume import Average, load_state, save_state
from .tokenizer import VOCABULARY, write_tokenizer

CONTEXT, WIDTH, CHANNELS, SIDE = 16, 128, 8, 8
TEMPLATES = ["a photo of a {}.", "a picture of a {}.", "an icon of a {}.", "a drawing of a {}."]
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}


@dataclass(frozen=True)
class Schedule:
    steps: int
    batch: int
    rate: float
    warmup: int = 100
    decay_from: float = 0.3
    seed: int = 0
    every: int = 250

    def at(self, step: int) -> float:
        """Return the learning rate: linear warm-up, then constant, then cosine decay to zero."""
        progress = max(step / self.steps - self.decay_from, 0.0) / (1 - self.decay_from)
        return self.rate * min((step + 1) / self.warmup, 0.5 * (1 + math.cos(math.pi * progress)))


AUTOENCODER = Schedule(steps=2600, batch=48, rate=2e-3)
UNET = Schedule(steps=8000, batch=80, rate=1e-3, decay_from=0.4)
DENOISED_LOOK = Look(texture=0.2, strength=0.6, rotation=0.06, white=0.3, jitter=0.06)
ENCODED_LOOK = Look(texture=0.6, strength=1.0, rotation=0.1, white=0.2, jitter=0.1)


class Sampler:
    """Sample drawings; concepts have weight sqrt(number of drawings), times `weight` for the dataset's classes."""

    def __init__(self, masks: Masks, weight: float) -> None:
        count = np.bincount(masks.concept, minlength=len(masks.concepts))[masks.concept]
        probability = count**-0.5 * np.where(masks.concept < masks.classes, weight, 1.0)
        self.masks, self.probability = masks, probability / probability.sum()
        self.flips = torch.tensor([not ({"left", "right"} & set(name.split())) for name in masks.concepts])

    def images(self, count: int, look: Look, step: int) -> tuple[Tensor, list[str]]:
        """Return images (count, 3, 64, 64) in [-1, 1] and their captions, 30 % of which mention colours."""
        rng = np.random.default_rng((7, step))
        rows = rng.choice(len(self.probability), count, p=self.probability)
        generator = torch.Generator().manual_seed(step)
        flips = self.flips[self.masks.concept[rows]]
        images, ink, ground = flat(torch.from_numpy(self.masks.alpha[rows]), look, generator, flips)
        captions = []
        for position, row in enumerate(rows):
            name = self.masks.concepts[self.masks.concept[row]] if rng.random() < 0.8 else self.masks.surfaces[row]
            kind = rng.random()
            if kind < 0.3:
                name = f"{COLOURS[ink[position]]} {name}"
            if 0.15 < kind < 0.3:
                name = f"{name} on {COLOURS[ground[position]]}"
            captions.append("" if rng.random() < 0.1 else TEMPLATES[rng.integers(len(TEMPLATES))].format(name))
        return images * 2 - 1, captions


def edges(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.diff(dim=2), images.diff(dim=3)


def pretrain_autoencoder(masks: Masks, work: Path, schedule: Schedule = AUTOENCODER) -> AutoencoderTiny:
    """Train the autoencoder on pixel and edge errors, with noise on the latents to make the decoder robust."""
    torch.manual_seed(schedule.seed)
    model = AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        latent_channels=CHANNELS,
        num_encoder_blocks=(0, 1, 2, 3),
        num_decoder_blocks=(3, 2, 1, 0),
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    average, sampler = Average(model, 0.99), Sampler(masks, weight=3)
    for step in range(load_state(work / "autoencoder.pt", model, optimizer, average), schedule.steps):
        torch.manual_seed(step)
        images, _ = sampler.images(schedule.batch, ENCODED_LOOK, step)
        images = images.to(memory_format=torch.channels_last)
        optimizer.param_groups[0]["lr"] = schedule.at(step)
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encoder(images).float()
            decoded = model.decoder(latents + 0.05 * torch.randn_like(latents)).float()
        difference = decoded - images
        loss = difference.square().mean() + 0.3 * difference.abs().mean() + 0.002 * latents.square().mean()
        loss = loss + 0.5 * sum((a - b).abs().mean() for a, b in zip(edges(decoded), edges(images), strict=True))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 4 == 3:
            average.update(model)
        if (step + 1) % schedule.every == 0 or step + 1 == schedule.steps:
            save_state(work / "autoencoder.pt", step + 1, model, optimizer, average)
            decibel = -10 * torch.log10(difference.square().mean() / 4)
            print(f"autoencoder {step + 1}/{schedule.steps} loss {loss:.4f} {decibel:.1f} dB", flush=True)
    model.load_state_dict(average.state)
    model.eval()
    with torch.no_grad():
        latents = torch.cat([model.encoder(sampler.images(64, DENOISED_LOOK, 10**6 + n)[0]) for n in range(8)])
    model.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=0.0)
    return model.to(memory_format=torch.contiguous_format)


class Denoiser(nn.Module):
    """UNet and text tower, which are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=SIDE,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            layers_per_block=1,
            block_out_channels=(64, 128),
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            norm_num_groups=16,
            # The pooled caption conditions every block, because cross-attention alone learns shapes slowly.
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
        )
        self.text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=VOCABULARY,
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=CONTEXT,
                hidden_act="gelu",
                projection_dim=WIDTH,
                bos_token_id=VOCABULARY - 2,
                eos_token_id=VOCABULARY - 1,
                pad_token_id=0,
            )
        )

    def forward(self, noisy: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        velocity: Tensor = self.unet(noisy, times, encoder_hidden_states=self.text(tokens).last_hidden_state).sample
        return velocity


def pretrain_unet(
    masks: Masks, autoencoder: AutoencoderTiny, tokenizer: CLIPTokenizer, work: Path, schedule: Schedule = UNET
) -> Denoiser:
    """Train v-prediction with lower weights for nearly clean images; 10 % of the captions are dropped for guidance."""
    torch.manual_seed(schedule.seed)
    model = Denoiser()
    model.unet.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    average, noise = Average(model, 0.998), DDPMScheduler(**NOISE)
    sampler, scale = Sampler(masks, weight=16), autoencoder.config.scaling_factor
    for step in range(load_state(work / "unet.pt", model, optimizer, average), schedule.steps):
        torch.manual_seed(step)
        images, captions = sampler.images(schedule.batch, DENOISED_LOOK, step)
        tokens = tokenizer(
            captions, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt"
        ).input_ids
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            latents = autoencoder.encoder(images.to(memory_format=torch.channels_last)).float() * scale
        times = torch.randint(0, noise.config.num_train_timesteps, (schedule.batch,))
        random = torch.randn_like(latents)
        noisy, target = noise.add_noise(latents, random, times), noise.get_velocity(latents, random, times)
        signal = noise.alphas_cumprod[times]
        ratio = signal / (1 - signal)
        weight = (5 / (ratio + 1)).clamp(max=1.0)
        optimizer.param_groups[0]["lr"] = schedule.at(step)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            velocity = model(noisy, times, tokens).float()
        loss = ((velocity - target).square().mean((1, 2, 3)) * weight).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 4 == 3:
            average.update(model)
        if (step + 1) % schedule.every == 0 or step + 1 == schedule.steps:
            save_state(work / "unet.pt", step + 1, model, optimizer, average)
            print(f"unet {step + 1}/{schedule.steps} loss {loss:.4f}", flush=True)
    model.load_state_dict(average.state)
    model.unet.to(memory_format=torch.contiguous_format)
    return model.eval()


def write_pipeline(
    denoiser: Denoiser, autoencoder: AutoencoderTiny, tokenizer: CLIPTokenizer, masks: Masks, out: Path
) -> None:
    """Write a Stable Diffusion folder in half precision."""
    scheduler = DPMSolverMultistepScheduler(
        **NOISE, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
    )
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=denoiser.text,
        tokenizer=tokenizer,
        unet=denoiser.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    # Write vocabulary and merges, which all versions of transformers read, instead of one large file.
    write_tokenizer(out / "tokenizer", CONTEXT)
    (out / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    # transformers would load the weights in the precision of this entry; diffusers loads float32.
    config = out / "text_encoder" / "config.json"
    config.write_text(config.read_text().replace('"float16"', '"float32"'))
    seen = {
        "sets": masks.families,
        "drawings": len(masks.alpha),
        "autoencoder_steps": AUTOENCODER.steps,
        "unet_steps": UNET.steps,
    }
    (out / "pretraining.json").write_text(json.dumps(seen, indent=1))


def pretrain(masks: Masks, out: Path, work: Path) -> None:
    """Train the whole generator and write a folder for `diffusers.DiffusionPipeline.from_pretrained`."""
    write_tokenizer(work / "tokenizer", CONTEXT)
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    autoencoder = pretrain_autoencoder(masks, work)
    denoiser = pretrain_unet(masks, autoencoder, tokenizer, work)
    write_pipeline(denoiser, autoencoder, tokenizer, masks, out)
