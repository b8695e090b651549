"""Vectors inserted after the first token, compared with a loop over the model's own blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from syncclip.clip.backbone import Backbone
from syncclip.clip.inserted import Inserted, check_towers
from syncclip.clip.length_buckets import of_like_length
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError

BLOCKS = [(0,), (2,), (0, 1, 2), (1, 2), (0, 2)]
"""Indices of the blocks, of three, that receive vectors."""
SENTENCES = ["a photo of a cat.", "a sun", "two blue cars in the rain"]


def vectors(width: int, blocks: tuple[int, ...], count: int = 2) -> Inserted:
    return Inserted({block: torch.randn(count, width) for block in blocks})


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def run_blocks(x: Tensor, blocks: torch.nn.ModuleList, inserted: Inserted, causal: bool) -> Tensor:
    """Pass all tokens through all blocks."""
    count = 0
    for i, block in enumerate(blocks):
        if i in inserted.vectors:
            new = inserted.vectors[i].expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], new, x[:, 1 + count :]], dim=1)
            count = new.shape[1]
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1) if causal else None
        x = block(x, attn_mask=mask)
    return x


def full_texts(clip: PromptedClip, sentences: list[str], inserted: Inserted) -> Tensor:
    model, ids = clip.model, clip.backbone.tokenizer(sentences)
    x = model.token_embedding(ids) + model.positional_embedding
    x = run_blocks(x, model.transformer.resblocks, inserted, causal=True)
    ends = ids.argmax(dim=1) + inserted.count
    features: Tensor = model.ln_final(x)[torch.arange(len(ids)), ends] @ model.text_projection
    return features


def full_images(clip: PromptedClip, inserted: Inserted) -> Tensor:
    visual, pixels = clip.model.visual, images()
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(pixels), 1, -1), patches], dim=1) + visual.positional_embedding
    x = visual.ln_post(run_blocks(visual.ln_pre(x), visual.transformer.resblocks, inserted, causal=False))
    return torch.cat([x[:, 0] @ visual.proj, x[:, 1 : 1 + inserted.count].mean(dim=1)], dim=1)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_features_match_the_full_computation(clip: PromptedClip, blocks: tuple[int, ...]) -> None:
    inserted = vectors(clip.text.width, blocks)
    actual = clip.encode_text(clip.texts(SENTENCES), inserted=inserted)
    torch.testing.assert_close(actual, full_texts(clip, SENTENCES, inserted), rtol=0, atol=1e-5)
    inserted = vectors(clip.vision.width, blocks)
    actual = clip.encode_images(images(), inserted=inserted)
    torch.testing.assert_close(actual, full_images(clip, inserted), rtol=0, atol=1e-5)


def test_vectors_may_exceed_the_context(clip: PromptedClip) -> None:
    longest = next(count for count in range(1, 15) if int(clip.lengths(["a " * count])) == clip.context)
    sentences = ["a " * longest, "a cat"]
    inserted = vectors(clip.text.width, (1, 2), count=5)
    actual = clip.encode_text(clip.texts(sentences), inserted=inserted)
    torch.testing.assert_close(actual, full_texts(clip, sentences, inserted), rtol=0, atol=1e-5)


def test_single_texts_and_slices_have_the_same_features(clip: PromptedClip) -> None:
    inserted, tokens = vectors(clip.text.width, (1,)), clip.texts(SENTENCES)
    expected = clip.encode_text(tokens, inserted=inserted)
    torch.testing.assert_close(clip.encode_text(tokens[1:], inserted=inserted), expected[1:], rtol=0, atol=1e-5)
    single = clip.encode_text(clip.texts(SENTENCES[:1]), inserted=inserted)
    torch.testing.assert_close(single, expected[:1], rtol=0, atol=1e-5)


def test_texts_in_groups_of_similar_length_keep_their_order(clip: PromptedClip) -> None:
    sentences = [" ".join(["a"] * (1 + row % 12)) + " cat" for row in range(80)]
    tokens, inserted = clip.texts(sentences), vectors(clip.text.width, (0, 2))
    assert len(of_like_length(tokens.lengths)) > 1
    actual = clip.encode_text(tokens, inserted=inserted)
    torch.testing.assert_close(actual, full_texts(clip, sentences, inserted), rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_match_the_full_computation(backbone: Backbone, clip: PromptedClip, checkpointed: bool) -> None:
    checkpointing = PromptedClip(replace(backbone, checkpoint_activations=checkpointed))
    text, vision = vectors(clip.text.width, (1, 2)), vectors(clip.vision.width, (1, 2))
    learned = [each.requires_grad_() for inserted in (text, vision) for each in inserted.vectors.values()]
    actual = checkpointing.encode_text(checkpointing.texts(SENTENCES), inserted=text).square().sum()
    actual = actual + checkpointing.encode_images(images(), inserted=vision).square().sum()
    expected = full_texts(clip, SENTENCES, text).square().sum() + full_images(clip, vision).square().sum()
    gradients = torch.autograd.grad(actual, learned), torch.autograd.grad(expected, learned)
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


def test_bf16_features_are_float32_and_close(backbone: Backbone, clip: PromptedClip) -> None:
    half, tokens = PromptedClip(replace(backbone, precision="bf16")), clip.texts(SENTENCES)
    text, vision = vectors(clip.text.width, (1, 2)), vectors(clip.vision.width, (1, 2))
    for actual, expected in [
        (half.encode_images(images(), inserted=vision), clip.encode_images(images(), inserted=vision)),
        (half.encode_text(tokens, inserted=text), clip.encode_text(tokens, inserted=text)),
    ]:
        assert actual.dtype == torch.float32 and not torch.equal(actual, expected)
        assert torch.nn.functional.cosine_similarity(actual, expected).min() > 0.999


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("clipa", "its text tower is not causal"),
        ("siglip", "its text tower is not causal"),
        ("eva02", "its vision tower does not pool a single class token"),
        ("laion", None),
        ("openai", None),
    ],
)
def test_towers_need_a_first_token(load_family: Callable[[str], Backbone], family: str, reason: str | None) -> None:
    clip = PromptedClip(load_family(family))
    if reason is None:
        check_towers(clip.text, clip.vision, "it")
        return
    with pytest.raises(UserError, match=rf"'it' does not support .*, because {reason}; use"):
        check_towers(clip.text, clip.vision, "it")
