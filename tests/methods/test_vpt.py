"""VPT: tokens of the vision tower, and the template of its frozen prompts."""

from __future__ import annotations

import torch

from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.vpt import Vpt
from tests.methods.classes import DATASET, Classes, batch

OTHER_TEMPLATE = Classes(template="the {} there")


def test_deep_prompts_of_all_blocks_are_trained(clip: PromptedClip) -> None:
    method = build_method("vpt", clip, DATASET)
    assert {tuple(value.shape) for value in method.state_dict().values()} == {(8, 32)}
    method.loss(batch())["total"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in method.parameters())


def test_shallow_prompts_are_inserted_at_the_input(clip: PromptedClip) -> None:
    method, images = build_method("vpt", clip, DATASET, Vpt.Settings(visual_depth=1)), batch().images
    expected = clip.encode_images(images, [method.state_dict()["vision_prompts.0"]])
    assert torch.equal(method.image_features(images), expected)


def test_template_is_the_same_for_all_datasets_by_default(clip: PromptedClip) -> None:
    zeroshot = build_method("zeroshot", clip, DATASET)
    for dataset in (DATASET, OTHER_TEMPLATE):
        torch.testing.assert_close(build_method("vpt", clip, dataset).text_features(), zeroshot.text_features())
    method = build_method("vpt", clip, OTHER_TEMPLATE, Vpt.Settings(template=None))
    expected = build_method("zeroshot", clip, OTHER_TEMPLATE).text_features()
    torch.testing.assert_close(method.text_features(), expected)
