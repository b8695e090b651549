"""What is learned inside the blocks does what changed weights do, and stays with its method."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.parts import BlockPart, Matrix
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from tests.worlds.families import families, make_family_folder

SENTENCES = ["a photo of a cat.", "a golden retriever", "blue car"]
PLAIN = ["openai", "laion", "laion-layer-scale", "laion-worldwide", "clipa", "coca"]
"""Families with open_clip's own vision transformer."""


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backbone]:
    return {}


@pytest.fixture
def clip(name: str, backbones: dict[str, Backbone], tmp_path_factory: pytest.TempPathFactory) -> PromptedClip:
    if name not in backbones:
        folder = make_family_folder(tmp_path_factory.mktemp(name), families()[name])
        backbones[name] = load_backbone(BackboneSettings(name=str(folder)))
    torch.manual_seed(0)
    return PromptedClip(backbones[name])


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Shifted(BlockPart):
    """Adds a table to each matrix, and a vector to the gain of each norm."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        width = len(block.ln_1.weight)
        sizes = dict.fromkeys(("q", "k", "v", "out"), (width, width))
        sizes |= {"fc": block.mlp.c_fc.weight.shape, "proj": block.mlp.c_proj.weight.shape}
        self.tables = nn.ParameterDict({name: 0.1 * torch.randn(*size) for name, size in sizes.items()})
        self.gains = nn.ParameterDict({name: 0.1 * torch.randn(width) for name in ("ln_1", "ln_2")})

    def linear(self, name: Matrix, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(x, weight + self.tables[name], bias)

    def norm(self, name: Any, frozen: Any, x: Tensor) -> Tensor:
        return F.layer_norm(x, frozen.weight.shape, frozen.weight + self.gains[name], frozen.bias, frozen.eps)

    def written_into(self, block: Any) -> None:
        """Change the block's own weights in the same way."""
        attention, mlp = block.attn, block.mlp
        with torch.no_grad():
            attention.in_proj_weight += torch.cat([self.tables[name] for name in "qkv"])
            attention.out_proj.weight += self.tables["out"]
            mlp.c_fc.weight += self.tables["fc"]
            mlp.c_proj.weight += self.tables["proj"]
            block.ln_1.weight += self.gains["ln_1"]
            block.ln_2.weight += self.gains["ln_2"]


def text_blocks(model: Any) -> Any:
    return getattr(model, "text", model).transformer.resblocks


@pytest.mark.parametrize("name", PLAIN)
def test_changed_matrices_and_norms_of_the_vision_tower(clip: PromptedClip) -> None:
    blocks = clip.model.visual.transformer.resblocks
    parts, changed = [Shifted(block) for block in blocks], deepcopy(clip.model)
    for part, block in zip(parts, changed.visual.transformer.resblocks, strict=True):
        part.written_into(block)
    expected = PromptedClip(replace(clip.backbone, model=changed))
    torch.testing.assert_close(
        clip.encode_images(images(), parts=parts), expected.encode_images(images()), rtol=0, atol=5e-5
    )
    prompts = [torch.randn(2, clip.vision.width) for _ in range(2)]
    torch.testing.assert_close(
        clip.encode_images(images(), prompts, parts), expected.encode_images(images(), prompts), rtol=0, atol=5e-5
    )


@pytest.mark.parametrize("name", [*PLAIN[:-1], "siglip", "mobileclip"])
def test_changed_matrices_and_norms_of_the_text_tower(clip: PromptedClip) -> None:
    parts, changed = [Shifted(block) for block in text_blocks(clip.model)], deepcopy(clip.model)
    for part, block in zip(parts, text_blocks(changed), strict=True):
        part.written_into(block)
    expected = PromptedClip(replace(clip.backbone, model=changed))
    for tokens, prompts in (
        (clip.texts(SENTENCES), []),
        (clip.text_context(SENTENCES, "a photo of a", 2), [torch.randn(2, clip.text.width)]),
        (clip.text_context(SENTENCES, "a photo of a", 2), [torch.randn(3, 2, clip.text.width)]),
    ):
        torch.testing.assert_close(
            clip.encode_text(tokens, prompts, parts), expected.encode_text(tokens, prompts), rtol=0, atol=5e-5
        )


class Beside(BlockPart):
    """A small adapter beside the block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))

    def beside(self, normed: Tensor) -> Tensor:
        return torch.relu(normed @ self.weight)


@pytest.mark.parametrize("name", ["openai", "clipa"])
def test_what_is_beside_a_block_sees_its_normed_input_and_is_added_to_its_output(clip: PromptedClip) -> None:
    for tower, blocks in ((clip.vision, clip.model.visual.transformer.resblocks), (clip.text, text_blocks(clip.model))):
        parts = [Beside(tower.width) for _ in blocks]
        hooks = [
            block.register_forward_hook(lambda block, given, out, part=part: out + part.beside(block.ln_1(given[0])))
            for part, block in zip(parts, blocks, strict=True)
        ]
        vision = tower is clip.vision
        ids = clip.backbone.tokenizer(SENTENCES)
        expected = clip.model.encode_image(images()) if vision else clip.model.encode_text(ids)
        for hook in hooks:
            hook.remove()
        found = (
            clip.encode_images(images(), parts=parts) if vision else clip.encode_text(clip.texts(SENTENCES), (), parts)
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["openai"])
def test_parts_stay_with_their_method_and_gradients_reach_them_alone(clip: PromptedClip) -> None:
    before = clip.encode_images(images()), clip.encode_text(clip.texts(SENTENCES))
    vision = nn.ModuleList(Shifted(block) for block in clip.model.visual.transformer.resblocks)
    text = nn.ModuleList(Shifted(block) for block in text_blocks(clip.model))
    loss = clip.encode_images(images(), parts=vision).square().sum()
    (loss + clip.encode_text(clip.texts(SENTENCES), parts=text).square().sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in [*vision.parameters()])
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in [*text.parameters()])
    assert all(parameter.grad is None for parameter in clip.model.parameters())
    other = [Beside(clip.vision.width) for _ in range(clip.vision.layers)]
    assert not torch.equal(clip.encode_images(images(), parts=other), before[0])
    after = clip.encode_images(images()), clip.encode_text(clip.texts(SENTENCES))
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


class Dropping(Beside):
    """An adapter that draws random numbers."""

    def beside(self, normed: Tensor) -> Tensor:
        return F.dropout(super().beside(normed), 0.5)


@pytest.mark.parametrize("name", ["openai"])
def test_computing_activations_twice_draws_the_same_again(clip: PromptedClip) -> None:
    gradients = []
    for twice in (False, True):
        once_more = PromptedClip(replace(clip.backbone, checkpoint_activations=twice))
        torch.manual_seed(3)
        parts = nn.ModuleList(Dropping(clip.vision.width) for _ in range(clip.vision.layers))
        once_more.encode_images(images(), parts=parts).square().sum().backward()
        gradients.append([parameter.grad for parameter in parts.parameters()])
    assert all(one is not None and torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("eva02", "this is timm's Eva"),
        ("siglip", "this is timm's VisionTransformer"),
        ("resnet", "is not a plain vision transformer"),
    ],
)
def test_a_vision_tower_that_takes_no_parts_is_told(clip: PromptedClip, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        clip.encode_images(images(), parts=[BlockPart() for _ in range(3)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["roberta"])
def test_a_text_tower_that_takes_no_parts_is_told(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="is not a plain CLIP transformer"):
        clip.encode_text(clip.texts(SENTENCES), parts=[BlockPart()])


@pytest.mark.parametrize("name", ["openai"])
def test_parts_for_another_number_of_blocks_are_refused(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="parts for 2 blocks"):
        clip.encode_images(images(), parts=[BlockPart(), BlockPart()])
    with pytest.raises(UserError, match="parts for 4 blocks"):
        clip.encode_text(clip.texts(SENTENCES), parts=[BlockPart() for _ in range(4)])


@pytest.mark.parametrize("name", ["openai"])
def test_parts_learn_in_no_fp16(clip: PromptedClip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PromptedClip, "device", torch.device("cuda"))
    half = PromptedClip(replace(clip.backbone, precision="fp16"))
    with pytest.raises(UserError, match="train in bf16 or fp32"):
        half._autocast((), [Beside(4)])


@pytest.mark.parametrize("name", ["openai", "clipa"])
def test_parts_compute_in_bf16_and_hand_out_float32(clip: PromptedClip) -> None:
    parts = [Shifted(block) for block in clip.model.visual.transformer.resblocks]
    low = PromptedClip(replace(clip.backbone, precision="bf16")).encode_images(images(), parts=parts)
    full = clip.encode_images(images(), parts=parts)
    assert low.dtype == torch.float32 and not torch.equal(low, full)
    assert F.cosine_similarity(low, full).min() > 0.999


def frozen_parts(clip: PromptedClip) -> Iterator[BlockPart]:
    return (BlockPart() for _ in range(clip.vision.layers))


@pytest.mark.parametrize("name", PLAIN)
def test_parts_that_change_nothing_give_the_frozen_features(clip: PromptedClip) -> None:
    found = clip.encode_images(images(), parts=[*frozen_parts(clip)])
    torch.testing.assert_close(found, clip.encode_images(images()), rtol=0, atol=2e-5)
