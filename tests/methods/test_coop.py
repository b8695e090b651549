"""CoOp: position, initialisation and training of the context."""

from __future__ import annotations

import pytest
import torch

from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import TextTooLongError
from syncclip.core.settings import Position
from syncclip.methods import build_method
from syncclip.methods.coop import CoOp
from tests.methods.classes import DATASET, Classes, batch
from tests.methods.parity import real_batch

CAT = Classes(classnames=["cat"], base=[0])


@pytest.mark.parametrize(("class_specific", "shape"), [(False, (3, 16)), (True, (5, 3, 16))])
def test_context_is_shared_or_class_specific(clip: PromptedClip, class_specific: bool, shape: tuple[int, ...]) -> None:
    method = build_method("coop", clip, DATASET, CoOp.Settings(text_tokens=3, class_specific=class_specific))
    assert {name: p.shape for name, p in method.state_dict().items()} == {"text_prompts.0": shape}


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_equal_class_specific_contexts_are_a_shared_context(clip: PromptedClip, position: Position) -> None:
    shared, specific = (
        build_method("coop", clip, DATASET, CoOp.Settings(text_tokens=3, position=position, class_specific=value))
        for value in (False, True)
    )
    specific.load_state_dict({name: value.expand(5, -1, -1) for name, value in shared.state_dict().items()})
    torch.testing.assert_close(specific.text_features(), shared.text_features(), rtol=0, atol=1e-5)


def test_random_initialisation_has_the_published_standard_deviation(clip: PromptedClip) -> None:
    classes = Classes(classnames=["cat"] * 300, base=[0])
    method = build_method("coop", clip, classes, CoOp.Settings(text_tokens=4, class_specific=True), seed=0)
    start = method.state_dict()["text_prompts.0"]
    assert start.std() == pytest.approx(0.02, rel=0.05)
    assert not torch.equal(start[0], start[1])


@pytest.mark.parametrize("class_specific", [False, True])
def test_initial_words_initialise_one_vector_each(clip: PromptedClip, class_specific: bool) -> None:
    words = clip.model.token_embedding(clip.backbone.tokenizer(["this is a photo of a"]))[0, 1:7]
    settings = CoOp.Settings(initial_words="this is a photo of a", class_specific=class_specific)
    start = build_method("coop", clip, DATASET, settings).state_dict()["text_prompts.0"]
    assert torch.equal(start, words.expand_as(start))


def test_context_initialised_with_the_template_has_its_features(clip: PromptedClip) -> None:
    method = build_method("coop", clip, DATASET, CoOp.Settings(initial_words="a photo of a"))
    zeroshot = build_method("zeroshot", clip, DATASET)
    torch.testing.assert_close(method.text_features(), zeroshot.text_features(), rtol=0, atol=1e-5)


def test_random_context_has_sixteen_vectors_or_fills_a_short_context(clip: PromptedClip) -> None:
    assert clip.context == 16
    assert build_method("coop", clip, DATASET).tokens.slots.shape == (5, 11)  # start, "blue car", full stop, end
    assert build_method("coop", clip, CAT).tokens.slots.shape == (1, 12)


@pytest.mark.parametrize(("sizes", "trained"), [((4, 0, 0), 3), ((0, 4, 4), 5), ((4, 4, 4), 5), ((0, 4, 0), 5)])
def test_only_candidate_classes_train_their_context(
    clip: PromptedClip, sizes: tuple[int, int, int], trained: int
) -> None:
    method = build_method("coop", clip, DATASET, CoOp.Settings(text_tokens=2, class_specific=True))
    method.loss(batch(*sizes))["total"].backward()
    gradient = method.text_prompts[0].grad
    assert gradient.flatten(1).any(dim=1).tolist() == [True] * trained + [False] * (5 - trained)


def test_image_features_are_those_of_the_frozen_clip(clip: PromptedClip) -> None:
    method, images = build_method("coop", clip, DATASET), torch.randn(2, 3, 32, 32)
    features = method.image_features(images)
    torch.testing.assert_close(features, clip.model.encode_image(images), rtol=0, atol=1e-5)
    assert not features.requires_grad


def test_single_class(clip: PromptedClip) -> None:
    method, images = build_method("coop", clip, CAT), torch.randn(2, 3, 32, 32)
    method.loss(real_batch(images, torch.zeros(2, dtype=torch.long)))["total"].backward()
    assert method.logits(images).shape == (2, 1)


def test_prompts_are_limited_by_the_context(clip: PromptedClip) -> None:
    with pytest.raises(TextTooLongError, match="exceeds the CLIP context"):
        build_method("coop", clip, DATASET, CoOp.Settings(text_tokens=12))
    with pytest.raises(TextTooLongError, match="shorter class name"):
        build_method("coop", clip, Classes(classnames=["cat " * 13], base=[0]))


def test_features_of_a_class_do_not_depend_on_other_classes(clip: PromptedClip) -> None:
    several = build_method("coop", clip, DATASET, CoOp.Settings(text_tokens=4, position="front"))
    for label, name in enumerate(DATASET.classnames):
        single = build_method("coop", clip, Classes(classnames=[name], base=[0]), several.settings)
        single.load_state_dict(several.state_dict())
        torch.testing.assert_close(single.text_features()[0], several.text_features()[label], rtol=0, atol=1e-5)
