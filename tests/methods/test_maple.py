"""MaPLe: visual prompts that are made of the text's."""

from __future__ import annotations

import pytest
import torch
from open_clip import SimpleTokenizer
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch.nn.functional import cross_entropy

from syncclip.clip.backbone import Backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.maple import Maple
from tests.methods.classes import DATASET, batch


@pytest.mark.parametrize(("sizes", "candidates"), [((4, 0, 0), 3), ((0, 4, 4), 5), ((4, 4, 4), 5)])
def test_the_loss_is_one_cross_entropy(clip: PromptedClip, sizes: tuple[int, int, int], candidates: int) -> None:
    method, images = build_method("maple", clip, DATASET), batch(*sizes)
    expected = cross_entropy(method.logits(images.images)[:, :candidates], images.labels)
    torch.testing.assert_close(method.loss(images)["total"], expected)


def test_only_text_prompts_and_projections_are_learned(clip: PromptedClip) -> None:
    method = build_method("maple", clip, DATASET, Maple.Settings(depth=2))
    assert {name: tuple(value.shape) for name, value in method.state_dict().items()} == {
        "text_prompts.0": (2, 16),
        "text_prompts.1": (2, 16),
        "projections.0.weight": (32, 16),
        "projections.0.bias": (32,),
        "projections.1.weight": (32, 16),
        "projections.1.bias": (32,),
    }


def test_each_block_of_the_vision_tower_sees_the_texts_prompt_projected(clip: PromptedClip) -> None:
    method, images = build_method("maple", clip, DATASET), batch().images
    state = method.state_dict()
    prompts = [
        state[f"text_prompts.{block}"] @ state[f"projections.{block}.weight"].T + state[f"projections.{block}.bias"]
        for block in range(3)
    ]
    torch.testing.assert_close(method.image_features(images), clip.encode_images(images, prompts))


def test_text_prompts_of_every_block_learn_from_images(clip: PromptedClip) -> None:
    method = build_method("maple", clip, DATASET)
    method.image_features(batch().images).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())


def test_deeper_projections_start_alike_and_learn_apart(clip: PromptedClip) -> None:
    method = build_method("maple", clip, DATASET)
    first, second, third = (project.weight for project in method.projections)
    assert torch.equal(second, third) and not torch.equal(first, second)
    assert second is not third
    method.loss(batch())["total"].backward()
    torch.optim.SGD(method.parameters(), lr=1.0).step()
    assert not torch.equal(second, third)


def test_at_depth_one_only_the_inputs_have_prompts(clip: PromptedClip) -> None:
    method = build_method("maple", clip, DATASET, Maple.Settings(depth=1))
    assert sorted(method.state_dict()) == ["projections.0.bias", "projections.0.weight", "text_prompts.0"]


def test_the_depth_is_bounded_by_the_lower_tower() -> None:
    vision = CLIPVisionCfg(layers=3, width=32, head_width=16, patch_size=8, image_size=32)
    model = CLIP(8, vision, CLIPTextCfg(context_length=16, vocab_size=49408, width=16, heads=1, layers=2))
    low = PromptedClip(Backbone("low", model, SimpleTokenizer(), lambda i: i, (0,) * 3, (1,) * 3, 32))
    assert len(build_method("maple", low, DATASET).text_prompts) == 2
    with pytest.raises(UserError, match="depth: .* at most 2"):
        build_method("maple", low, DATASET, Maple.Settings(depth=3))


def test_prompts_that_do_not_fit_the_context_are_refused(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="fewer text tokens"):
        build_method("maple", clip, DATASET, Maple.Settings(text_tokens=15))
