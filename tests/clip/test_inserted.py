"""Vectors behind the first token, against loops over the model's own blocks that save nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.inserted import Inserted, check_towers
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import of_like_length
from syncclip.core.settings import UserError
from tests.worlds.clip import make_clip_folder
from tests.worlds.families import families, make_family_folder

BLOCKS = [(0,), (2,), (0, 1, 2), (1, 2), (0, 2)]
"""That the vectors enter, of three; after the last of these they stay as they have become."""
SENTENCES = ["a photo of a cat.", "a sun", "two blue cars in the rain"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(BackboneSettings(name=str(make_clip_folder(tmp_path_factory.mktemp("clip")))))


@pytest.fixture
def clip(backbone: Backbone) -> PromptedClip:
    torch.manual_seed(0)
    return PromptedClip(backbone)


def vectors(width: int, blocks: tuple[int, ...], count: int = 2) -> Inserted:
    return Inserted({block: torch.randn(count, width) for block in blocks})


def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def run(x: Tensor, blocks: torch.nn.ModuleList, inserted: Inserted, causal: bool) -> Tensor:
    """All tokens of all texts or images through all blocks."""
    there = 0
    for i, block in enumerate(blocks):
        if i in inserted.vectors:
            own = inserted.vectors[i].expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], own, x[:, 1 + there :]], dim=1)
            there = own.shape[1]
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1) if causal else None
        x = block(x, attn_mask=mask)
    return x


def whole_texts(clip: PromptedClip, sentences: list[str], inserted: Inserted) -> Tensor:
    model, ids = clip.model, clip.backbone.tokenizer(sentences)
    x = run(model.token_embedding(ids) + model.positional_embedding, model.transformer.resblocks, inserted, causal=True)
    ends = ids.argmax(dim=1) + inserted.count
    features: Tensor = model.ln_final(x)[torch.arange(len(ids)), ends] @ model.text_projection
    return features


def whole_images(clip: PromptedClip, inserted: Inserted) -> Tensor:
    visual, seen = clip.model.visual, images()
    patches = visual.conv1(seen).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(seen), 1, -1), patches], dim=1) + visual.positional_embedding
    x = visual.ln_post(run(visual.ln_pre(x), visual.transformer.resblocks, inserted, causal=False))
    each = [x[:, 1 + token] for token in range(inserted.count)]
    return torch.cat([x[:, 0] @ visual.proj, torch.stack(each).mean(dim=0)], dim=1)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_texts_are_those_of_the_whole_context(clip: PromptedClip, blocks: tuple[int, ...]) -> None:
    inserted = vectors(clip.text.width, blocks)
    found = clip.encode_text(clip.texts(SENTENCES), inserted=inserted)
    torch.testing.assert_close(found, whole_texts(clip, SENTENCES, inserted), rtol=0, atol=1e-5)


@pytest.mark.parametrize("blocks", BLOCKS)
def test_images_have_the_features_of_the_class_token_and_the_mean_of_the_others(
    clip: PromptedClip, blocks: tuple[int, ...]
) -> None:
    inserted = vectors(clip.vision.width, blocks)
    found = clip.encode_images(images(), inserted=inserted)
    torch.testing.assert_close(found, whole_images(clip, inserted), rtol=0, atol=1e-5)


def test_a_text_that_fills_the_context_has_room_for_them(clip: PromptedClip) -> None:
    fitting = [count for count in range(1, 15) if int(clip.lengths(["a " * count])) == clip.context]
    sentences = ["a " * fitting[0], "a cat"]
    inserted = vectors(clip.text.width, (1, 2), count=5)
    found = clip.encode_text(clip.texts(sentences), inserted=inserted)
    torch.testing.assert_close(found, whole_texts(clip, sentences, inserted), rtol=0, atol=1e-5)


def test_a_single_text_and_some_of_many(clip: PromptedClip) -> None:
    inserted, tokens = vectors(clip.text.width, (1,)), clip.texts(SENTENCES)
    every = clip.encode_text(tokens, inserted=inserted)
    torch.testing.assert_close(clip.encode_text(tokens[1:], inserted=inserted), every[1:], rtol=0, atol=1e-5)
    alone = clip.encode_text(clip.texts(SENTENCES[:1]), inserted=inserted)
    torch.testing.assert_close(alone, every[:1], rtol=0, atol=1e-5)


def test_many_texts_of_unlike_length_keep_their_order(clip: PromptedClip) -> None:
    sentences = [" ".join(["a"] * (1 + row % 12)) + " cat" for row in range(80)]
    tokens, inserted = clip.texts(sentences), vectors(clip.text.width, (0, 2))
    assert len(of_like_length(tokens.lengths)) > 1
    found = clip.encode_text(tokens, inserted=inserted)
    torch.testing.assert_close(found, whole_texts(clip, sentences, inserted), rtol=0, atol=1e-5)


@pytest.mark.parametrize("twice", [False, True])
def test_gradients_are_those_of_the_whole(backbone: Backbone, clip: PromptedClip, twice: bool) -> None:
    again = PromptedClip(replace(backbone, checkpoint_activations=twice))
    text, vision = vectors(clip.text.width, (1, 2)), vectors(clip.vision.width, (1, 2))
    learned = [one.requires_grad_() for inserted in (text, vision) for one in inserted.vectors.values()]
    ours = again.encode_text(again.texts(SENTENCES), inserted=text).square().sum()
    ours = ours + again.encode_images(images(), inserted=vision).square().sum()
    theirs = whole_texts(clip, SENTENCES, text).square().sum() + whole_images(clip, vision).square().sum()
    for found, expected in zip(torch.autograd.grad(ours, learned), torch.autograd.grad(theirs, learned), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_bf16_stays_near_and_hands_out_float32(backbone: Backbone, clip: PromptedClip) -> None:
    half = PromptedClip(replace(backbone, precision="bf16"))
    text, vision = vectors(clip.text.width, (1, 2)), vectors(clip.vision.width, (1, 2))
    for low, full in [
        (half.encode_images(images(), inserted=vision), clip.encode_images(images(), inserted=vision)),
        (
            half.encode_text(clip.texts(SENTENCES), inserted=text),
            clip.encode_text(clip.texts(SENTENCES), inserted=text),
        ),
    ]:
        assert low.dtype == torch.float32 and not torch.equal(low, full)
        assert torch.nn.functional.cosine_similarity(low, full).min() > 0.999


def test_fp16_is_not_for_learning_them(backbone: Backbone) -> None:
    half = PromptedClip(replace(backbone, precision="fp16"))
    inserted = Inserted({1: torch.zeros(2, half.vision.width, requires_grad=True)})
    with pytest.raises(UserError, match="backbone.precision: fp16 requires a GPU"):
        half.encode_images(images(), inserted=inserted)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("clipa", "in its text tower every token attends to all others"),
        ("siglip", "in its text tower every token attends to all others"),
        ("eva02", "its vision tower pools other tokens than a class token"),
        ("laion", None),
        ("openai", None),
    ],
)
def test_towers_without_such_a_first_token_are_refused_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, name: str, reason: str | None
) -> None:
    folder = make_family_folder(tmp_path_factory.mktemp(name), families()[name])
    clip = PromptedClip(load_backbone(BackboneSettings(name=str(folder))))
    if reason is None:
        check_towers(clip.text, clip.vision, "it")
        return
    with pytest.raises(UserError, match=rf"'it' does not support \({reason}\)") as caught:
        check_towers(clip.text, clip.vision, "it")
    assert "\n" not in str(caught.value)
