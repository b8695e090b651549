"""Wrappers around open_clip's and timm's vision transformers, for inserting prompts.

Prompts follow the patches, have no positional embedding, pass through the norm before the first block, and are not
pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from syncclip.clip.blocks import attend
from syncclip.clip.parts import Parts, for_blocks
from syncclip.core.settings import UserError

Block = Callable[[Tensor | None, Tensor], Tensor]
"""Function (query, tokens) -> outputs (B, Q, width); the query consists of the first Q tokens (None: all tokens)."""


class VisionTower(Protocol):
    """Interface to the stages of a vision transformer, for inserting prompts between them.

    Attributes:
        reads_class_token: whether only the class token is pooled.
        norm: normalisation of tokens and prompts before the first block.
        last_norm: normalisation of the last block's output.
    """

    width: int
    layers: int
    reads_class_token: bool
    norm: Callable[[Tensor], Tensor]
    last_norm: Callable[[Tensor], Tensor]

    def embed(self, images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as tokens (B, T, width) with positions: a class token, if any, and patches."""

    def blocks(self, prompts: int, parts: Parts = ()) -> Sequence[Block]:
        """Return the blocks for the given number of prompts; raise a `UserError` if parts are unsupported."""

    def inside(self) -> Sequence[Any]:
        """Return the block modules, from which parts are initialised; raise a `UserError` if parts are unsupported."""

    def read(self, x: Tensor) -> Tensor:
        """Return the tokens that are pooled after the last block."""

    def pool(self, x: Tensor) -> Tensor:
        """Compute features (B, D) from the last block's outputs for the pooled tokens."""


class PlainVision:
    """open_clip's `VisionTransformer`, used by OpenAI, LAION, DataComp, MetaCLIP, DFN, CLIPA and CoCa models."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.width, self.layers = int(module.conv1.out_channels), len(module.transformer.resblocks)
        self.reads_class_token = module.attn_pool is None and module.pool_type == "tok"
        self.norm: Callable[[Tensor], Tensor] = module.ln_pre
        self.last_norm: Callable[[Tensor], Tensor] = module.ln_post

    def embed(self, images: Tensor) -> Tensor:
        patches = self.module.conv1(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.module.class_embedding.expand(images.shape[0], 1, -1), patches], dim=1)
        embedded: Tensor = tokens + self.module.positional_embedding
        return embedded

    def blocks(self, prompts: int, parts: Parts = ()) -> Sequence[Block]:  # noqa: ARG002
        part_of_block = zip(self.module.transformer.resblocks, for_blocks("vision", parts, self.layers), strict=True)
        return [partial(attend, block, part=part) for block, part in part_of_block]

    def inside(self) -> Sequence[Any]:
        return [*self.module.transformer.resblocks]

    def read(self, x: Tensor) -> Tensor:
        if self.module.attn_pool is not None:
            return x
        return x[:, 1:] if self.module.pool_type == "avg" else x[:, :1]

    def pool(self, x: Tensor) -> Tensor:
        if self.module.attn_pool is not None:
            x = self.last_norm(self.module.attn_pool(x))[:, 0]
        elif self.module.final_ln_after_pool:
            x = self.last_norm(x.mean(dim=1))
        else:
            x = self.last_norm(x).mean(dim=1)
        return x if self.module.proj is None else x @ self.module.proj


class TimmVision:
    """timm's `VisionTransformer` or `Eva`, used by SigLIP, EVA-CLIP, Perception Encoder, ViTamin and MobileCLIP-B."""

    reads_class_token = False  # timm does not expose it

    def __init__(self, trunk: Any, head: Any) -> None:
        self.trunk, self.head = trunk, head
        self.width, self.layers = int(trunk.embed_dim), len(trunk.blocks)
        self.norm: Callable[[Tensor], Tensor] = trunk.norm_pre
        self.last_norm: Callable[[Tensor], Tensor] = trunk.norm

    def embed(self, images: Tensor) -> Tensor:
        # timm has no public function for this; which tokens have positions differs between towers.
        embedded: Any = self.trunk._pos_embed(self.trunk.patch_embed(images))
        tokens: Tensor = embedded[0] if isinstance(embedded, tuple) else embedded  # Eva also returns rotary embeddings
        return tokens

    def blocks(self, prompts: int, parts: Parts = ()) -> Sequence[Block]:
        if len(parts):
            self.inside()
        if getattr(self.trunk, "rope", None) is None:
            return [partial(_all_tokens, block) for block in self.trunk.blocks]
        rotations = self._rotations(prompts)
        return [
            partial(_all_tokens, block, rope=rope) for block, rope in zip(self.trunk.blocks, rotations, strict=True)
        ]

    def inside(self) -> Sequence[Any]:
        raise UserError(
            "backbone.name: the method requires open_clip's own vision transformer, but the model has timm's "
            f"{type(self.trunk).__name__}; use a model such as 'ViT-B-16', or a method that learns prompts"
        )

    def read(self, x: Tensor) -> Tensor:
        return x

    def pool(self, x: Tensor) -> Tensor:
        features: Tensor = self.head(self.trunk.forward_head(self.last_norm(x)))
        return features

    def _rotations(self, prompts: int) -> Sequence[Tensor]:
        """Return each block's rotary sines and cosines for patches and prompts: (…, patches + prompts, 2 × head width).

        Prompts have no position in the image and are not rotated (sine 0, cosine 1).
        """
        rotations: Tensor = self.trunk.rope.get_embed(self.trunk.patch_embed.grid_size)
        identity = rotations.new_zeros(*rotations.shape[:-2], prompts, rotations.shape[-1])
        identity[..., rotations.shape[-1] // 2 :] = 1
        rotations = torch.cat([rotations, identity], dim=-2)
        return list(rotations) if getattr(self.trunk, "rope_mixed", False) else [rotations] * self.layers


def _all_tokens(block: Any, query: Tensor | None, tokens: Tensor, **positions: Tensor) -> Tensor:
    """Run the block on all tokens, and return the outputs for `query`."""
    output: Tensor = block(tokens, **positions)
    return output if query is None else output[:, : query.shape[1]]


def vision_tower(model: Any) -> VisionTower | None:
    """Return an open_clip model's vision tower, or None for an unsupported architecture such as a ResNet."""
    # These modules are slow to import.
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
    from timm.models import eva, vision_transformer

    visual = model.visual
    if isinstance(visual, VisionTransformer):
        plain = all(isinstance(block, ResidualAttentionBlock) for block in visual.transformer.resblocks)
        contrastive_pool = visual.attn_pool is not None and visual.attn_pool_contrastive is not None
        supported = visual.pool_type == "tok" or (visual.pool_type == "avg" and visual.attn_pool is None)
        return PlainVision(visual) if plain and supported and not contrastive_pool else None
    if isinstance(visual, TimmModel):
        trunk: Any = visual.trunk  # excludes subclasses, whose computations differ
        supported = type(trunk) in (vision_transformer.VisionTransformer, eva.Eva) and trunk.global_pool
        return TimmVision(trunk, visual.head) if supported else None
    return None


def no_vision_prompts(model: Any, backbone: str) -> UserError:
    """Return the error for a backbone without a supported vision tower."""
    kind = type(getattr(model.visual, "trunk", model.visual)).__name__
    return UserError(
        f"backbone.name: the vision tower of '{backbone}' does not support prompts, because it is not a plain vision "
        f"transformer (type: {kind}); use a ViT model such as 'ViT-B-16', or a method that adapts only the text tower"
    )
