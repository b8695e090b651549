"""VPT: tokens in the vision tower, sentences that stay as they are."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.vpt import Vpt
from tests.methods.classes import DATASET, Classes, batch

OTHER_WORDS = Classes(template="the {} there")


@pytest.mark.parametrize(("sizes", "candidates"), [((4, 0, 0), 3), ((0, 4, 4), 5), ((4, 4, 4), 5)])
def test_the_loss_is_one_cross_entropy(clip: PromptedClip, sizes: tuple[int, int, int], candidates: int) -> None:
    method, images = build_method("vpt", clip, DATASET), batch(*sizes)
    expected = cross_entropy(method.logits(images.images)[:, :candidates], images.labels)
    losses = method.loss(images)
    assert losses.keys() == {"classification", "total"}
    torch.testing.assert_close(losses["total"], expected)


def test_deep_every_block_has_tokens_of_its_own(clip: PromptedClip) -> None:
    method = build_method("vpt", clip, DATASET)
    assert {name: tuple(value.shape) for name, value in method.state_dict().items()} == {
        f"vision_prompts.{block}": (8, 32) for block in range(3)
    }
    method.loss(batch())["total"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())


def test_shallow_the_tokens_enter_at_the_input_alone(clip: PromptedClip) -> None:
    method, images = build_method("vpt", clip, DATASET, Vpt.Settings(visual_depth=1)), batch().images
    assert list(method.state_dict()) == ["vision_prompts.0"]
    expected = clip.encode_images(images, [method.state_dict()["vision_prompts.0"]])
    assert torch.equal(method.image_features(images), expected)


def test_the_sentence_is_the_same_for_all_datasets(clip: PromptedClip) -> None:
    zeroshot = build_method("zeroshot", clip, DATASET)
    for dataset in (DATASET, OTHER_WORDS):
        torch.testing.assert_close(build_method("vpt", clip, dataset).text_features(), zeroshot.text_features())


def test_the_sentence_can_be_the_datasets_own(clip: PromptedClip) -> None:
    method = build_method("vpt", clip, OTHER_WORDS, Vpt.Settings(template=None))
    torch.testing.assert_close(method.text_features(), build_method("zeroshot", clip, OTHER_WORDS).text_features())


def test_a_training_encodes_the_sentences_once(clip: PromptedClip, monkeypatch: pytest.MonkeyPatch) -> None:
    method, calls, right = build_method("vpt", clip, DATASET), [], clip.encode_text
    monkeypatch.setattr(clip, "encode_text", lambda *a: calls.append(1) or right(*a))
    for _ in range(3):
        method.loss(batch())["total"].backward()
    assert len(calls) == 1
