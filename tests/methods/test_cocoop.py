"""CoCoOp: a context per image, and encoding in chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import PromptTokens
from syncclip.methods import Method, build_method
from syncclip.methods.cocoop import CoCoOp
from tests.methods.classes import DATASET, batch
from tests.methods.parity import Batch


def build(clip: PromptedClip, at_once: int | None = None) -> CoCoOp:
    """A method whose shifts are large."""
    method = build_method("cocoop", clip, DATASET, CoCoOp.Settings(prompts_at_once=at_once), seed=0)
    assert isinstance(method, CoCoOp)
    with torch.no_grad():
        method.meta_net.linear1.bias.fill_(0.5)
    return method


def gradients(method: Method, images: Batch) -> dict[str, Tensor]:
    method.zero_grad()
    method.loss(images)["total"].backward()
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def test_scores_of_an_image_do_not_depend_on_other_images(clip: PromptedClip) -> None:
    method, images = build(clip), torch.randn(3, 3, 32, 32)
    single = torch.cat([method.logits(image[None]) for image in images])
    torch.testing.assert_close(method.logits(images), single, rtol=0, atol=1e-4)


def test_all_vectors_have_the_same_shift(clip: PromptedClip) -> None:
    method, features = build(clip), torch.randn(3, clip.text.dim)
    shifts = method.contexts(features) - method.text_prompts[0]
    expected = method.meta_net(normalize(features, dim=-1))
    torch.testing.assert_close(shifts, expected[:, None].expand_as(shifts))
    assert not torch.allclose(shifts[0], shifts[1])


def test_scores_without_shift_are_those_of_coop(clip: PromptedClip) -> None:
    method, images = build(clip), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        method.meta_net.linear2.weight.zero_()
        method.meta_net.linear2.bias.zero_()
    expected = method.scores(method.image_features(images), method.text_features())
    torch.testing.assert_close(method.logits(images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 3, 7, 60])
def test_chunks_do_not_change_losses_and_gradients(clip: PromptedClip, at_once: int) -> None:
    images, single, chunked = batch(), build(clip), build(clip, at_once)
    rounding = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(chunked.loss(images)["total"], single.loss(images)["total"], **rounding)
    torch.testing.assert_close(chunked.logits(images.images), single.logits(images.images), **rounding)
    expected = gradients(single, images)
    assert set(expected) == {name for name, _ in single.named_parameters()}
    assert all(gradient.any() for gradient in expected.values())
    torch.testing.assert_close(gradients(chunked, images), expected, **rounding)


@pytest.mark.parametrize("at_once", [3, 7])
def test_number_of_prompts_in_one_pass_is_limited(
    clip: PromptedClip, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    method, original, counts = build(clip, at_once), clip.encode_text, []

    def counting(tokens: PromptTokens, prompts: list[Tensor]) -> Tensor:
        counts.append(len(prompts[0]) * len(tokens.ids))
        return original(tokens, prompts)

    monkeypatch.setattr(clip, "encode_text", counting)
    method.loss(batch())["total"].backward()
    assert max(counts) <= at_once
    assert sum(counts) == 2 * 12 * 5, "every prompt once, and once more for the gradient"
    counts.clear()
    with torch.no_grad():
        method.logits(batch().images)
    assert max(counts) <= at_once
    assert sum(counts) == 12 * 5


def test_chunks_save_memory(clip: PromptedClip) -> None:
    def saved_bytes(method: Method) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            method.loss(batch())
        return sum(sizes)

    assert saved_bytes(build(clip, 5)) < saved_bytes(build(clip)) / 20


def test_width_of_the_network(clip: PromptedClip) -> None:
    assert build(clip).meta_net.linear1.weight.shape == (clip.text.dim // 16, clip.text.dim)
