"""MaPLe: visual prompts projected from text prompts."""

from __future__ import annotations

import torch

from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from tests.methods.classes import DATASET, batch


def test_visual_prompts_are_projected_text_prompts(clip: PromptedClip) -> None:
    method, images = build_method("maple", clip, DATASET), batch().images
    state = method.state_dict()
    prompts = [
        state[f"text_prompts.{block}"] @ state[f"projections.{block}.weight"].T + state[f"projections.{block}.bias"]
        for block in range(3)
    ]
    assert prompts[0].shape == (2, 32)
    torch.testing.assert_close(method.image_features(images), clip.encode_images(images, prompts))


def test_images_train_text_prompts_and_projections(clip: PromptedClip) -> None:
    method = build_method("maple", clip, DATASET)
    method.image_features(batch().images).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())


def test_deeper_projections_have_equal_initial_values_and_are_trained_separately(clip: PromptedClip) -> None:
    method = build_method("maple", clip, DATASET)
    first, second, third = (project.weight for project in method.projections)
    assert torch.equal(second, third) and not torch.equal(first, second)
    method.loss(batch())["total"].backward()
    torch.optim.SGD(method.parameters(), lr=1.0).step()
    assert not torch.equal(second, third)
