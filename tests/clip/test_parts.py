"""Learned parts inside blocks, compared with the same changes of the weights."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from syncclip.clip.parts import BlockPart, Matrix
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError

SENTENCES = ["a photo of a cat.", "a golden retriever", "blue car"]
PLAIN = ["openai", "laion", "laion-layer-scale", "laion-worldwide", "clipa", "coca"]
"""Families with open_clip's own vision transformer."""


@pytest.fixture
def name() -> str:
    return "openai"


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def vision_blocks(model: Any) -> Any:
    return model.visual.transformer.resblocks


def text_blocks(model: Any) -> Any:
    return getattr(model, "text", model).transformer.resblocks


class Offset(BlockPart):
    """Adds an offset to each matrix and to the gain of each norm."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        width = len(block.ln_1.weight)
        sizes = dict.fromkeys(("q", "k", "v", "out"), (width, width))
        sizes |= {"fc": block.mlp.c_fc.weight.shape, "proj": block.mlp.c_proj.weight.shape}
        self.matrices = nn.ParameterDict({name: 0.1 * torch.randn(*size) for name, size in sizes.items()})
        self.gains = nn.ParameterDict({name: 0.1 * torch.randn(width) for name in ("ln_1", "ln_2")})

    def linear(self, name: Matrix, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight + self.matrices[name], bias)

    def norm(self, name: Any, frozen: Any, x: Tensor) -> Tensor:
        return F.layer_norm(x, frozen.weight.shape, frozen.weight + self.gains[name], frozen.bias, frozen.eps)

    @torch.no_grad()
    def add_to(self, block: Any) -> None:
        """Add the offsets to the weights of a block."""
        block.attn.in_proj_weight += torch.cat([self.matrices[name] for name in "qkv"])
        block.attn.out_proj.weight += self.matrices["out"]
        block.mlp.c_fc.weight += self.matrices["fc"]
        block.mlp.c_proj.weight += self.matrices["proj"]
        block.ln_1.weight += self.gains["ln_1"]
        block.ln_2.weight += self.gains["ln_2"]


class Adapter(BlockPart):
    """A small network beside the block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))

    def residual(self, normed: Tensor) -> Tensor:
        return torch.relu(normed @ self.weight)


class DropoutAdapter(Adapter):
    """An adapter that uses random numbers."""

    def residual(self, normed: Tensor) -> Tensor:
        return F.dropout(super().residual(normed), 0.5)


@pytest.mark.parametrize("name", PLAIN)
def test_changed_weights_of_the_vision_tower(clip: PromptedClip) -> None:
    parts, changed = [Offset(block) for block in vision_blocks(clip.model)], deepcopy(clip.model)
    for part, block in zip(parts, vision_blocks(changed), strict=True):
        part.add_to(block)
    reference = PromptedClip(replace(clip.backbone, model=changed))
    for prompts in ([], [torch.randn(2, clip.vision.width) for _ in range(2)]):
        actual = clip.encode_images(images(), prompts, parts)
        torch.testing.assert_close(actual, reference.encode_images(images(), prompts), rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", [*PLAIN[:-1], "siglip", "mobileclip"])
def test_changed_weights_of_the_text_tower(clip: PromptedClip) -> None:
    parts, changed = [Offset(block) for block in text_blocks(clip.model)], deepcopy(clip.model)
    for part, block in zip(parts, text_blocks(changed), strict=True):
        part.add_to(block)
    reference = PromptedClip(replace(clip.backbone, model=changed))
    context = clip.text_context(SENTENCES, "a photo of a", 2)
    for tokens, prompts in (
        (clip.texts(SENTENCES), []),
        (context, [torch.randn(2, clip.text.width)]),
        (context, [torch.randn(3, 2, clip.text.width)]),
    ):
        actual = clip.encode_text(tokens, prompts, parts)
        torch.testing.assert_close(actual, reference.encode_text(tokens, prompts), rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ["openai", "clipa"])
def test_an_adapter_adds_to_the_output_of_its_block(clip: PromptedClip) -> None:
    ids = clip.backbone.tokenizer(SENTENCES)
    for tower, blocks in ((clip.vision, vision_blocks(clip.model)), (clip.text, text_blocks(clip.model))):
        parts = [Adapter(tower.width) for _ in blocks]
        hooks = [
            block.register_forward_hook(lambda block, inputs, x, part=part: x + part.residual(block.ln_1(inputs[0])))
            for part, block in zip(parts, blocks, strict=True)
        ]
        if tower is clip.vision:
            expected, actual = clip.model.encode_image(images()), clip.encode_images(images(), parts=parts)
        else:
            expected, actual = clip.model.encode_text(ids), clip.encode_text(clip.texts(SENTENCES), parts=parts)
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_only_parts_receive_gradients_and_the_towers_are_unchanged(clip: PromptedClip) -> None:
    before = clip.encode_images(images()), clip.encode_text(clip.texts(SENTENCES))
    vision = nn.ModuleList(map(Offset, vision_blocks(clip.model)))
    text = nn.ModuleList(map(Offset, text_blocks(clip.model)))
    loss = clip.encode_images(images(), parts=vision).square().sum()
    (loss + clip.encode_text(clip.texts(SENTENCES), parts=text).square().sum()).backward()
    learned = [*vision.parameters(), *text.parameters()]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in learned)
    assert all(parameter.grad is None for parameter in clip.model.parameters())
    after = clip.encode_images(images()), clip.encode_text(clip.texts(SENTENCES))
    assert all(map(torch.equal, before, after))


def test_activation_checkpointing_repeats_random_numbers(clip: PromptedClip) -> None:
    gradients = []
    for checkpointed in (False, True):
        checkpointing = PromptedClip(replace(clip.backbone, checkpoint_activations=checkpointed))
        torch.manual_seed(3)
        parts = nn.ModuleList(DropoutAdapter(clip.vision.width) for _ in range(clip.vision.layers))
        checkpointing.encode_images(images(), parts=parts).square().sum().backward()
        gradients.append([parameter.grad for parameter in parts.parameters()])
    assert all(a is not None and torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("eva02", "the model has timm's Eva"),
        ("siglip", "the model has timm's VisionTransformer"),
        ("resnet", "it is not a plain vision transformer"),
    ],
)
def test_parts_require_a_vision_transformer_of_open_clip(clip: PromptedClip, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        clip.encode_images(images(), parts=[BlockPart() for _ in range(3)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roberta"])
def test_parts_require_a_clip_text_transformer(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="it is not a plain CLIP transformer"):
        clip.encode_text(clip.texts(SENTENCES), parts=[BlockPart()])


def test_each_block_needs_a_part(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="parts for 2 blocks"):
        clip.encode_images(images(), parts=[BlockPart(), BlockPart()])
    with pytest.raises(UserError, match="parts for 4 blocks"):
        clip.encode_text(clip.texts(SENTENCES), parts=[BlockPart() for _ in range(4)])


@pytest.mark.parametrize("name", ["openai", "clipa"])
def test_bf16_features_are_float32_and_close(clip: PromptedClip) -> None:
    parts = [Offset(block) for block in vision_blocks(clip.model)]
    half = PromptedClip(replace(clip.backbone, precision="bf16")).encode_images(images(), parts=parts)
    full = clip.encode_images(images(), parts=parts)
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    assert F.cosine_similarity(half, full).min() > 0.999


@pytest.mark.parametrize("name", PLAIN)
def test_default_parts_keep_the_frozen_features(clip: PromptedClip) -> None:
    parts = [BlockPart() for _ in range(clip.vision.layers)]
    torch.testing.assert_close(
        clip.encode_images(images(), parts=parts), clip.encode_images(images()), rtol=0, atol=2e-5
    )
