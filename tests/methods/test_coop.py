"""CoOp: where its vectors are, where they start, and what they learn from."""

from __future__ import annotations

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch.nn.functional import cross_entropy, normalize

from syncclip.clip.backbone import Backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import TextTooLongError
from syncclip.core.settings import Position
from syncclip.methods import build_method
from syncclip.methods.coop import CoOp
from tests.methods.classes import DATASET, Classes, batch
from tests.methods.parity import Batch


def test_all_classes_share_their_context_or_have_one_each(clip: PromptedClip) -> None:
    for class_specific, shape in ((False, (3, 16)), (True, (5, 3, 16))):
        method = build_method("coop", clip, DATASET, CoOp.Settings(text_tokens=3, class_specific=class_specific))
        assert {name: p.shape for name, p in method.state_dict().items()} == {"text_prompts.0": shape}
        assert method.logits(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_equal_contexts_of_all_classes_are_one_context(clip: PromptedClip, position: Position) -> None:
    shared = build_method("coop", clip, DATASET, CoOp.Settings(text_tokens=3, position=position))
    settings = CoOp.Settings(text_tokens=3, position=position, class_specific=True)
    own = build_method("coop", clip, DATASET, settings)
    own.load_state_dict({name: value.expand(5, -1, -1) for name, value in shared.state_dict().items()})
    torch.testing.assert_close(own.text_features(), shared.text_features(), rtol=0, atol=1e-5)


def test_a_random_start_has_the_published_spread(clip: PromptedClip) -> None:
    classes = Classes(classnames=["cat"] * 300, base=[0])
    method = build_method("coop", clip, classes, CoOp.Settings(text_tokens=4, class_specific=True), seed=0)
    start = method.state_dict()["text_prompts.0"]
    assert start.std() == pytest.approx(0.02, rel=0.05)
    assert not torch.equal(start[0], start[1])


def test_a_phrase_starts_one_vector_a_word_in_every_class(clip: PromptedClip) -> None:
    words = clip.model.token_embedding(clip.backbone.tokenizer(["this is a photo of a"]))[0, 1:7]
    for class_specific in (False, True):
        settings = CoOp.Settings(initial_words="this is a photo of a", class_specific=class_specific)
        start = build_method("coop", clip, DATASET, settings).state_dict()["text_prompts.0"]
        assert torch.equal(start, words.expand_as(start))


def test_a_context_that_starts_as_the_template_classifies_like_it(clip: PromptedClip) -> None:
    method = build_method("coop", clip, DATASET, CoOp.Settings(initial_words="a photo of a"))
    zeroshot = build_method("zeroshot", clip, DATASET)
    torch.testing.assert_close(method.text_features(), zeroshot.text_features(), rtol=0, atol=1e-5)


def test_a_random_context_is_sixteen_long_or_what_there_is_room_for(clip: PromptedClip) -> None:
    assert clip.context == 16
    assert build_method("coop", clip, DATASET).tokens.slots.shape == (5, 11)  # start, "blue car", full stop, end
    short = Classes(classnames=["cat"], base=[0])
    assert build_method("coop", clip, short).tokens.slots.shape == (1, 12)


def test_only_candidates_learn_a_context_of_their_own(clip: PromptedClip) -> None:
    method = build_method("coop", clip, DATASET, CoOp.Settings(text_tokens=2, class_specific=True))
    for sizes, reached in {(4, 0, 0): 3, (0, 4, 4): 5, (4, 4, 4): 5, (0, 4, 0): 5}.items():
        method.zero_grad()
        method.loss(batch(*sizes))["total"].backward()
        gradient = method.text_prompts[0].grad
        assert gradient.flatten(1).any(dim=1).tolist() == [True] * reached + [False] * (5 - reached)


@pytest.mark.parametrize("sizes", [(4, 0, 0), (0, 4, 4), (4, 4, 4)])
def test_the_loss_is_the_cross_entropy_among_the_candidates(clip: PromptedClip, sizes: tuple[int, int, int]) -> None:
    method, images = build_method("coop", clip, DATASET), batch(*sizes)
    candidates = 3 if sizes == (4, 0, 0) else 5
    losses = method.loss(images)
    expected = cross_entropy(method.logits(images.images)[:, :candidates], images.labels)
    assert set(losses) == {"classification", "total"}
    torch.testing.assert_close(losses["total"], expected)


def test_synthetic_images_count_like_real_ones(clip: PromptedClip) -> None:
    method, mixed = build_method("coop", clip, DATASET), batch()
    as_real = Batch(mixed.images, mixed.labels, torch.zeros_like(mixed.domains), mixed.sizes)
    assert torch.equal(method.loss(mixed)["total"], method.loss(as_real)["total"])


def test_images_see_no_prompts_and_keep_nothing_for_gradients(clip: PromptedClip) -> None:
    method, images = build_method("coop", clip, DATASET), torch.randn(2, 3, 32, 32)
    features = method.image_features(images)
    torch.testing.assert_close(features, clip.model.encode_image(images), rtol=0, atol=1e-5)
    assert not features.requires_grad


@pytest.mark.parametrize("name", ["coop", "cocoop", "kgcoop"])
def test_a_resnet_serves_methods_that_learn_only_words(name: str) -> None:
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32)
    model = CLIP(8, vision, CLIPTextCfg(context_length=16, vocab_size=49408, width=8, heads=1, layers=1)).eval()
    clip = PromptedClip(Backbone("RN1", model, open_clip.SimpleTokenizer(), lambda i: i, (0,) * 3, (1,) * 3, 32))
    method = build_method(name, clip, DATASET)
    method.loss(batch())["total"].backward()
    assert all(p.grad is not None for p in method.parameters())
    assert method.logits(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_one_class_alone_is_learned_too(clip: PromptedClip) -> None:
    method = build_method("coop", clip, Classes(classnames=["cat"], base=[0]))
    images = torch.randn(2, 3, 32, 32)
    one = Batch(images, torch.zeros(2, dtype=torch.long), torch.zeros(2, dtype=torch.long), (2, 0, 0))
    method.loss(one)["total"].backward()
    assert method.logits(images).shape == (2, 1)


def test_a_phrase_with_too_few_words_is_refused() -> None:
    with pytest.raises(ValueError, match="text_tokens is 4"):
        CoOp.Settings(initial_words="a photo", text_tokens=4)


def test_a_context_longer_than_the_tower_takes_is_refused(clip: PromptedClip) -> None:
    with pytest.raises(TextTooLongError, match="does not fit"):
        build_method("coop", clip, DATASET, CoOp.Settings(text_tokens=12))


def test_names_that_leave_no_room_for_a_context_are_refused(clip: PromptedClip) -> None:
    classes = Classes(classnames=["cat " * 13], base=[0])
    with pytest.raises(TextTooLongError, match="shorter class name"):
        build_method("coop", clip, classes)


def test_an_unknown_position_is_refused() -> None:
    with pytest.raises(ValueError, match="'end', 'middle' or 'front'"):
        CoOp.Settings(position="back")  # type: ignore[arg-type]


def test_the_name_may_stand_in_front_for_one_class_as_for_many(clip: PromptedClip) -> None:
    many = build_method("coop", clip, DATASET, CoOp.Settings(text_tokens=4, position="front"))
    for label, name in enumerate(DATASET.classnames):
        one = build_method("coop", clip, Classes(classnames=[name], base=[0]), many.settings)
        one.load_state_dict(many.state_dict())
        torch.testing.assert_close(one.text_features()[0], many.text_features()[label], rtol=0, atol=1e-5)
    assert torch.allclose(normalize(many.text_features(), dim=-1), many.text_features(), atol=1e-6)
