"""The towers with prompts, against open_clip's own towers and against loops that save nothing."""

from __future__ import annotations

from dataclasses import replace

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from syncclip.clip import prompted
from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.blocks import Prompts
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import of_like_length
from syncclip.core.settings import Position, UserError
from tests.worlds.clip import make_clip_folder

NAMES = ["cat", "golden_retriever", "blue car"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(BackboneSettings(name=str(make_clip_folder(tmp_path_factory.mktemp("clip")))))


@pytest.fixture
def clip(backbone: Backbone) -> PromptedClip:
    return PromptedClip(backbone)


def whole_text(clip: PromptedClip, ids: Tensor, slots: Tensor, prompts: Prompts) -> Tensor:
    """Text features one class at a time over the full context: nothing cut, nothing shared."""
    model, features = clip.model, []
    ids = torch.nn.functional.pad(ids, (0, clip.context - ids.shape[1]))
    for c in range(len(ids)):
        x = model.token_embedding(ids[c : c + 1])
        for i, block in enumerate(model.transformer.resblocks):
            if i < len(prompts) and (vectors := prompts[i]) is not None:
                x = x.clone()
                x[0, slots[c]] = vectors[c] if vectors.dim() == 3 else vectors
            x = block(x + model.positional_embedding if i == 0 else x, attn_mask=model.attn_mask)
        features.append(model.ln_final(x)[0, ids[c].argmax()] @ model.text_projection)
    return torch.stack(features)


def test_without_prompts_texts_are_those_of_open_clip(clip: PromptedClip) -> None:
    sentences = ["a photo of a cat.", "a sun", "two blue cars in the rain"]
    expected = clip.model.encode_text(clip.backbone.tokenizer(sentences))
    torch.testing.assert_close(clip.encode_text(clip.texts(sentences)), expected, rtol=0, atol=1e-5)


def test_without_prompts_images_are_those_of_open_clip(clip: PromptedClip) -> None:
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(clip.encode_images(images), clip.model.encode_image(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 4, 6])
@pytest.mark.parametrize("depth", [1, 3])
def test_text_prompts_give_what_the_whole_context_gives(clip: PromptedClip, n: int, depth: int) -> None:
    tokens = clip.text_context(NAMES, "a photo of a", n)
    prompts = [torch.randn(n, clip.text.width) for _ in range(depth)]
    expected = whole_text(clip, tokens.ids, tokens.slots, prompts)
    torch.testing.assert_close(clip.encode_text(tokens, prompts), expected, rtol=0, atol=1e-5)


def test_texts_are_cut_to_the_longest_and_their_common_start_is_shared(clip: PromptedClip) -> None:
    tokens = clip.text_context(["cat", "dog"], "a photo of a", 2)
    assert tokens.ids.shape[1] == int(tokens.read.max()) + 1 < clip.context
    assert tokens.shared == 5  # start, two places, "of a"


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("position", ["end", "front"])
def test_texts_of_like_length_go_together_and_give_what_the_whole_context_gives(
    clip: PromptedClip, position: Position, own: bool
) -> None:
    names = [name for _ in range(20) for name in ["the old blue car in the rain", "cat", "a red sun", "dog"]]
    tokens = clip.text_context(names, "", 2, position)
    assert [len(rows) for rows in of_like_length(tokens.lengths)] == [60, 20]
    prompts = [torch.randn(*([80] if own else []), 2, clip.text.width).requires_grad_() for _ in range(2)]
    features = clip.encode_text(tokens, prompts)
    expected = whole_text(clip, tokens.ids, tokens.slots, prompts)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    weights = torch.randn_like(features)
    pairs = zip(*(torch.autograd.grad((x * weights).sum(), prompts) for x in (features, expected)), strict=True)
    for gradient, wanted in pairs:
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-4)


def test_each_image_may_have_prompts_for_texts_of_any_length(clip: PromptedClip) -> None:
    tokens = clip.text_context(["cat"] * 40 + ["the old blue car in the rain"] * 2, "", 2)
    contexts = torch.randn(3, 1, 2, clip.text.width)
    each = torch.stack([clip.encode_text(tokens, [context]) for context in contexts])
    torch.testing.assert_close(clip.encode_text(tokens, [contexts]), each, rtol=0, atol=1e-5)


def test_a_single_class_is_read_behind_its_shared_start(clip: PromptedClip) -> None:
    tokens = clip.text_context(["cat"], "a photo of a", 4)
    prompts = [torch.randn(4, clip.text.width)]
    expected = whole_text(clip, tokens.ids, tokens.slots, prompts)
    torch.testing.assert_close(clip.encode_text(tokens, prompts), expected, rtol=0, atol=1e-5)


def test_each_class_may_have_prompts_of_its_own(clip: PromptedClip) -> None:
    tokens = clip.text_context(NAMES, "", 3)
    prompts = [torch.randn(len(NAMES), 3, clip.text.width), torch.randn(3, clip.text.width)]
    expected = whole_text(clip, tokens.ids, tokens.slots, prompts)
    torch.testing.assert_close(clip.encode_text(tokens, prompts), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("own", [(), (1,), (2,), (1, 2)])
@pytest.mark.parametrize("images", [0, 2])
def test_a_block_may_leave_what_it_is_given_or_begin_with_vectors_of_each_class(
    clip: PromptedClip, own: tuple[int, ...], images: int
) -> None:
    """Of three blocks; vectors of each class end what the texts share."""
    tokens, width, count = clip.text_context(NAMES, "", 3), clip.text.width, len(NAMES)
    first = torch.randn(*([images, 1] if images else []), 3, width).requires_grad_()
    deeper = [torch.randn(count, 3, width).requires_grad_() if block in own else None for block in (1, 2)]
    features = clip.encode_text(tokens, [first, *deeper])
    each = [whole_text(clip, tokens.ids, tokens.slots, [one, *deeper]) for one in first.view(-1, 3, width)]
    expected = torch.stack(each) if images else each[0]
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    learned, weights = [first, *(one for one in deeper if one is not None)], torch.randn_like(expected)
    pairs = zip(*(torch.autograd.grad((x * weights).sum(), learned) for x in (features, expected)), strict=True)
    for gradient, wanted in pairs:
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-4)


def test_groups_of_like_length_share_less_from_a_block_of_each_class_on(clip: PromptedClip) -> None:
    names = [name for _ in range(20) for name in ["the old blue car in the rain", "cat", "a red sun", "dog"]]
    tokens = clip.text_context(names, "", 2)
    prompts = [torch.randn(2, clip.text.width), None, torch.randn(80, 2, clip.text.width)]
    expected = whole_text(clip, tokens.ids, tokens.slots, prompts)
    torch.testing.assert_close(clip.encode_text(tokens, prompts), expected, rtol=0, atol=1e-5)


def test_fewer_vectors_beside_those_of_each_class_stand_at_the_first_places(clip: PromptedClip) -> None:
    tokens, few = clip.text_context(NAMES, "", 3), torch.randn(2, clip.text.width)
    own = torch.randn(len(NAMES), 3, clip.text.width)
    rest = clip.text.token_embedding(tokens.ids[:1, 3]).detach()
    expected = clip.encode_text(tokens, [torch.cat([few, rest]), own])
    torch.testing.assert_close(clip.encode_text(tokens, [few, own]), expected, rtol=0, atol=1e-6)


def test_other_prompts_have_a_vector_for_every_place(clip: PromptedClip) -> None:
    tokens, width = clip.text_context(NAMES, "", 3), clip.text.width
    for counts in ((2,), (3, 2), (2, 3)):
        with pytest.raises(AssertionError):
            clip.encode_text(tokens, [torch.randn(count, width) for count in counts])
    for own in (2, 4):  # beside two that all share, neither fills the places
        with pytest.raises(AssertionError):
            clip.encode_text(tokens, [torch.randn(2, width), torch.randn(len(NAMES), own, width)])


@pytest.mark.parametrize("later", [1, 2])
def test_what_texts_share_is_computed_once_up_to_vectors_of_each_class(
    clip: PromptedClip, later: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, met = clip.text_context(NAMES, "", 3), []
    right = prompted.attend
    monkeypatch.setattr(
        prompted,
        "attend",
        lambda block, asks, x, *others: (
            met.append((x if asks is None else asks).shape[-2]) or right(block, asks, x, *others)
        ),
    )
    own = torch.randn(len(NAMES), 3, clip.text.width)
    clip.encode_text(tokens, [torch.randn(3, clip.text.width), *[None] * (later - 1), own])
    whole, shared = tokens.ids.shape[1], tokens.shared
    assert met == [whole - shared, shared] * later + [whole] * (2 - later) + [1]


@pytest.mark.parametrize("classes", [1, len(NAMES)])
def test_each_image_may_have_text_prompts_of_its_own(clip: PromptedClip, classes: int) -> None:
    tokens = clip.text_context(NAMES, "", 3)
    first, second = torch.randn(2, classes, 3, clip.text.width), torch.randn(3, clip.text.width)
    expected = torch.stack([clip.encode_text(tokens, [each, second]) for each in first])
    torch.testing.assert_close(clip.encode_text(tokens, [first, second]), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("position", ["middle", "front"])
def test_the_name_may_stand_between_or_before_the_places(clip: PromptedClip, position: str) -> None:
    n, before = 5, {"middle": 2, "front": 0}[position]
    tokens = clip.text_context(NAMES, "", n, position)  # type: ignore[arg-type]
    at_end = clip.text_context(NAMES, "", n)
    prompts = [torch.randn(n, clip.text.width) for _ in range(2)]
    for c, end in enumerate(tokens.read.tolist()):
        start, *rest = at_end.ids[c, : end + 1].tolist()
        places, name, stop = rest[:n], rest[n:-2], rest[-2:]
        assert tokens.ids[c, : end + 1].tolist() == [start, *places[:before], *name, *places[before:], *stop]
    expected = whole_text(clip, tokens.ids, tokens.slots, prompts)
    torch.testing.assert_close(clip.encode_text(tokens, prompts), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("position", ["middle", "front"])
def test_a_full_stop_that_joins_a_name_moves_with_it(clip: PromptedClip, position: str) -> None:
    *_, last, end = clip.texts(["cat (old)."]).ids[0].tolist()
    tokens = clip.text_context(["cat (old)"], "", 2, position)  # type: ignore[arg-type]
    assert last not in clip.texts(["cat (old)"]).ids, "')' and '.' are one token"
    assert tokens.ids[0, -3 if position == "middle" else -4] == last
    assert tokens.slots[0].tolist() == ([1, 6] if position == "middle" else [5, 6])
    assert tokens.ids[0, -1] == end


def test_a_phrase_may_give_as_many_places_as_it_has_words(clip: PromptedClip) -> None:
    tokens = clip.text_context(["cat", "dog"], "this is a photo of a", None)
    assert tokens.initial is not None
    assert torch.equal(tokens.initial, clip.model.token_embedding(tokens.ids[0, 1:7]))
    assert tokens.slots.tolist() == [[1, 2, 3, 4, 5, 6]] * 2


def test_words_of_several_tokens_give_one_place_each_and_keep_the_rest(clip: PromptedClip) -> None:
    tokens, whole = clip.text_context(["cat"], "xylophone cat", None), clip.texts(["xylophone cat cat."])
    assert torch.equal(tokens.ids, whole.ids)
    assert tokens.slots.tolist() == [[1, 2]]
    assert whole.ids.shape[1] > 6, "the first word has more than one token"


def test_some_of_the_texts_are_encoded_as_among_all(clip: PromptedClip) -> None:
    tokens, prompts = clip.text_context(NAMES, "", 3), [torch.randn(3, clip.text.width)]
    some = clip.encode_text(tokens[1:3], prompts)
    torch.testing.assert_close(some, clip.encode_text(tokens, prompts)[1:3], rtol=0, atol=1e-6)


def test_each_image_may_have_vision_prompts_of_its_own(clip: PromptedClip) -> None:
    images, prompts = torch.randn(3, 3, 32, 32), [torch.randn(3, 2, clip.vision.width) for _ in range(2)]
    expected = torch.cat([clip.encode_images(images[i : i + 1], [p[i] for p in prompts]) for i in range(3)])
    torch.testing.assert_close(clip.encode_images(images, prompts), expected, rtol=0, atol=1e-5)


def test_deeper_vision_prompts_replace_those_before_them(clip: PromptedClip) -> None:
    model, images = clip.model.visual, torch.randn(2, 3, 32, 32)
    first, second = torch.randn(2, 2, clip.vision.width)
    x = model.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([model.class_embedding.expand(2, 1, -1), x], dim=1) + model.positional_embedding
    x = model.transformer.resblocks[0](model.ln_pre(torch.cat([x, first.expand(2, -1, -1)], dim=1)))
    x = torch.cat([x[:, :-2], second.expand(2, -1, -1)], dim=1)
    for block in model.transformer.resblocks[1:]:
        x = block(x)
    expected = model.ln_post(x[:, 0]) @ model.proj
    torch.testing.assert_close(clip.encode_images(images, [first, second]), expected, rtol=0, atol=1e-5)


def test_a_tower_that_averages_its_patches_leaves_the_prompts_out() -> None:
    vision = CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=8, image_size=32, pool_type="avg")
    model = CLIP(8, vision, CLIPTextCfg(context_length=8, vocab_size=600, width=16, heads=1, layers=1)).eval()
    clip = PromptedClip(Backbone("average", model, open_clip.SimpleTokenizer(), lambda i: i, (0,) * 3, (1,) * 3, 32))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(clip.encode_images(images), model.encode_image(images), rtol=0, atol=1e-5)
    prompted = clip.encode_images(images, [torch.zeros(3, clip.vision.width)])
    assert prompted.shape == (2, 8)
    assert not torch.allclose(prompted, model.encode_image(images))


def test_prompts_get_gradients_and_frozen_weights_keep_none(clip: PromptedClip) -> None:
    tokens = clip.text_context(NAMES, "a photo of a", 2)
    text = [torch.randn(2, clip.text.width, requires_grad=True) for _ in range(3)]
    vision = [torch.randn(2, clip.vision.width, requires_grad=True) for _ in range(3)]
    (clip.encode_images(torch.randn(2, 3, 32, 32), vision) @ clip.encode_text(tokens, text).T).square().sum().backward()
    assert all(prompt.grad is not None and prompt.grad.any() for prompt in text + vision)
    assert not any(weight.requires_grad or weight.grad is not None for weight in clip.parameters())


def test_computing_activations_twice_changes_no_gradient(backbone: Backbone) -> None:
    images, grads = torch.randn(2, 3, 32, 32), []
    start = torch.randn(2, 2, 32)
    for twice in (False, True):
        clip = PromptedClip(replace(backbone, checkpoint_activations=twice))
        prompts = start.clone().requires_grad_()
        clip.encode_images(images, list(prompts)).square().sum().backward()
        grads.append(prompts.grad)
    assert torch.equal(grads[0], grads[1])


def test_bf16_stays_near_and_hands_out_float32(backbone: Backbone) -> None:
    half, clip = PromptedClip(replace(backbone, precision="bf16")), PromptedClip(backbone)
    images, prompts = torch.randn(4, 3, 32, 32), [torch.randn(2, clip.vision.width)]
    tokens = clip.text_context(NAMES, "a photo of a", 2)
    words = [torch.randn(2, clip.text.width)]
    for low, full in [
        (half.encode_images(images, prompts), clip.encode_images(images, prompts)),
        (half.encode_text(tokens, words), clip.encode_text(tokens, words)),
    ]:
        assert low.dtype == torch.float32
        assert not torch.equal(low, full)
        assert torch.nn.functional.cosine_similarity(low, full).min() > 0.999


def test_a_text_longer_than_the_context_is_refused(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="does not fit the 16 tokens"):
        clip.text_context(["a very long name of a thing that nobody ever saw"], "a photo of a", 4)


def test_more_prompts_than_the_context_holds_are_refused(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="fewer text tokens"):
        clip.text_context(NAMES, "", 20)


def test_a_phrase_with_fewer_tokens_than_places_is_refused(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="'a photo' has 2 tokens"):
        clip.text_context(NAMES, "a photo", 3)


def test_prompts_deeper_than_the_tower_are_refused(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="lower the depth"):
        clip.encode_images(torch.zeros(1, 3, 32, 32), [torch.zeros(1, clip.vision.width)] * 4)


@pytest.fixture(scope="module")
def resnet() -> PromptedClip:
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32)
    model = CLIP(8, vision, CLIPTextCfg(context_length=8, vocab_size=600, width=16, heads=1, layers=1)).eval()
    return PromptedClip(Backbone("RN1", model, open_clip.SimpleTokenizer(), lambda i: i, (0,) * 3, (1,) * 3, 32))


def test_a_resnet_cannot_take_prompts(resnet: PromptedClip) -> None:
    with pytest.raises(UserError, match="'RN1' is not a plain vision transformer"):
        resnet.vision.width  # noqa: B018


def test_a_resnet_still_encodes_images(resnet: PromptedClip) -> None:
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(resnet.encode_images(images), resnet.model.encode_image(images), rtol=0, atol=1e-5)
