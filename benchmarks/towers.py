"""CLIP's towers as in the authors' code: every token of the full context passes through every block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import PromptTokens


class Texts(nn.Module):
    """Embedded texts (C, context, width) with the full context length, as in the published code."""

    embeddings: Tensor
    ends: Tensor

    def __init__(self, clip: PromptedClip, tokens: PromptTokens) -> None:
        super().__init__()
        free = tokens.slots.shape[1]
        assert (tokens.slots.cpu() == torch.arange(1, free + 1)).all(), "learned vectors precede the class name"
        ids = pad(tokens.ids, (0, clip.context - tokens.ids.shape[1])).to(clip.device)
        self.register_buffer("embeddings", clip.model.token_embedding(ids).detach(), persistent=False)
        self.register_buffer("ends", tokens.read.clone(), persistent=False)


Run = Callable[[Any, Tensor, Tensor | None, int], Tensor]
"""(block, tokens, mask, block index from 0) -> output of the block."""


def plain_block(block: Any, x: Tensor, mask: Tensor | None, at: int) -> Tensor:  # noqa: ARG001
    """Run a block without additional parts."""
    after: Tensor = block(x, attn_mask=mask)
    return after


def encode_text(
    clip: PromptedClip,
    texts: Texts,
    prompts: Sequence[Tensor] = (),
    classes: slice = slice(None),
    run: Run = plain_block,
) -> Tensor:
    """Return unnormalised text features (C, D) of the given classes."""
    tower = clip.model
    embeddings, ends = texts.embeddings[classes], texts.ends[classes]

    def with_prompt(x: Tensor, vectors: Tensor) -> Tensor:
        placed = vectors.expand(len(x), -1, -1).to(x.dtype)
        return torch.cat([x[:, :1], placed, x[:, 1 + placed.shape[1] :]], dim=1)

    with _precision(clip):
        x = (with_prompt(embeddings, prompts[0]) if prompts else embeddings) + tower.positional_embedding
        for i, block in enumerate(tower.transformer.resblocks):
            if 0 < i < len(prompts):
                x = with_prompt(x, prompts[i])
            x = run(block, x, tower.attn_mask, i)
        x = tower.ln_final(x)
        features: Tensor = x[torch.arange(len(x), device=x.device), ends] @ tower.text_projection
    return features.float()


def encode_images(clip: PromptedClip, images: Tensor, prompts: Sequence[Tensor] = (), run: Run = plain_block) -> Tensor:
    """Return unnormalised image features (B, D)."""
    tower, batch = clip.model.visual, len(images)
    with _precision(clip):
        patches = tower.conv1(images.to(tower.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        x = torch.cat([tower.class_embedding.expand(batch, 1, -1), patches], dim=1) + tower.positional_embedding
        length = x.shape[1]
        if prompts:
            x = torch.cat([x, prompts[0].expand(batch, -1, -1).to(x.dtype)], dim=1)
        x = tower.ln_pre(x)
        for i, block in enumerate(tower.transformer.resblocks):
            if 0 < i < len(prompts):
                x = torch.cat([x[:, :length], prompts[i].expand(batch, -1, -1).to(x.dtype)], dim=1)
            x = run(block, x, None, i)
        features: Tensor = tower.ln_post(x[:, 0]) @ tower.proj
    return features.float()


def encode_text_with(
    clip: PromptedClip, texts: Texts, inserted: Mapping[int, Tensor], classes: slice = slice(None)
) -> Tensor:
    """Return unnormalised text features (C, D), with vectors after the start token, as in MMRL's code.

    Args:
        inserted: block index (from 0) -> vectors (K, width).
    """
    tower = clip.model
    embeddings, ends = texts.embeddings[classes], texts.ends[classes]
    with _precision(clip):
        x, mask = embeddings + tower.positional_embedding, tower.attn_mask
        for i, block in enumerate(tower.transformer.resblocks):
            if i in inserted:
                x = _with_inserted(x, inserted, i)
                mask = x.new_full((x.shape[1], x.shape[1]), -torch.inf).triu_(1)
            x = block(x, attn_mask=mask)
        ends = ends + len(inserted[min(inserted)])
        features: Tensor = tower.ln_final(x)[torch.arange(len(x), device=x.device), ends] @ tower.text_projection
    return features.float()


def encode_images_with(clip: PromptedClip, images: Tensor, inserted: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Return unnormalised class token features (B, D), and the mean output (B, width) of the vectors after it.

    Args:
        inserted: block index (from 0) -> vectors (K, width).
    """
    tower, count = clip.model.visual, len(inserted[min(inserted)])
    with _precision(clip):
        patches = tower.conv1(images.to(tower.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        x = torch.cat([tower.class_embedding.expand(len(images), 1, -1), patches], dim=1) + tower.positional_embedding
        x = tower.ln_pre(x)
        for i, block in enumerate(tower.transformer.resblocks):
            if i in inserted:
                x = _with_inserted(x, inserted, i)
            x = block(x)
        features, outputs = tower.ln_post(x[:, 0]) @ tower.proj, tower.ln_post(x[:, 1 : 1 + count]).mean(dim=1)
    return features.float(), outputs.float()


def _with_inserted(x: Tensor, inserted: Mapping[int, Tensor], block: int) -> Tensor:
    """Return tokens (B, T, width) with a block's vectors after the first token, replacing those of an earlier block."""
    vectors = inserted[block].to(x.dtype).expand(len(x), -1, -1)
    rest = 1 if block == min(inserted) else 1 + vectors.shape[1]
    return torch.cat([x[:, :1], vectors, x[:, rest:]], dim=1)


def _precision(clip: PromptedClip) -> torch.autocast:
    return torch.autocast(clip.device.type, torch.bfloat16, enabled=clip.backbone.precision == "bf16")
