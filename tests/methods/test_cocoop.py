"""CoCoOp: each image's own context, and how many sentences are in the text tower at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import PromptTokens
from syncclip.methods import Method, build_method
from syncclip.methods.cocoop import CoCoOp
from tests.methods.classes import DATASET, batch
from tests.methods.parity import Batch


def build(clip: PromptedClip, at_once: int | None = None) -> CoCoOp:
    """With a net whose shifts are large enough to matter."""
    method = build_method("cocoop", clip, DATASET, CoCoOp.Settings(prompts_at_once=at_once), seed=0)
    assert isinstance(method, CoCoOp)
    with torch.no_grad():
        method.meta_net.linear1.bias.fill_(0.5)
    return method


def gradients(method: Method, images: Batch) -> dict[str, Tensor]:
    method.zero_grad()
    method.loss(images)["total"].backward()
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def test_an_image_has_the_scores_that_it_has_alone(clip: PromptedClip) -> None:
    method, images = build(clip), torch.randn(3, 3, 32, 32)
    alone = torch.cat([method.logits(image[None]) for image in images])
    torch.testing.assert_close(method.logits(images), alone, rtol=0, atol=1e-4)


def test_an_image_shifts_all_vectors_alike(clip: PromptedClip) -> None:
    method, features = build(clip), torch.randn(3, clip.text.dim)
    shifts = method.contexts(features) - method.text_prompts[0]
    expected = method.meta_net(normalize(features, dim=-1))
    torch.testing.assert_close(shifts, expected[:, None].expand_as(shifts))
    assert not torch.allclose(shifts[0], shifts[1])


def test_without_a_shift_it_is_coop(clip: PromptedClip) -> None:
    method, images = build(clip), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        method.meta_net.linear2.weight.zero_()
        method.meta_net.linear2.bias.zero_()
    expected = method.scores(method.image_features(images), method.text_features())
    torch.testing.assert_close(method.logits(images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 5, 7, 12, 60])
def test_in_turn_gives_the_numbers_of_all_at_once(clip: PromptedClip, at_once: int) -> None:
    images, whole, in_turn = batch(), build(clip), build(clip, at_once)
    rounding = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(in_turn.loss(images)["total"], whole.loss(images)["total"], **rounding)
    torch.testing.assert_close(in_turn.logits(images.images), whole.logits(images.images), **rounding)
    expected = gradients(whole, images)
    assert set(expected) == {name for name, _ in whole.named_parameters()}
    torch.testing.assert_close(gradients(in_turn, images), expected, **rounding)


@pytest.mark.parametrize("at_once", [1, 3, 7, 12])
def test_no_more_sentences_than_allowed_are_in_the_tower(
    clip: PromptedClip, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    method, right, met = build(clip, at_once), clip.encode_text, []

    def counted(tokens: PromptTokens, prompts: list[Tensor]) -> Tensor:
        met.append(len(prompts[0]) * len(tokens.ids))
        return right(tokens, prompts)

    monkeypatch.setattr(clip, "encode_text", counted)
    method.loss(batch())["total"].backward()
    assert max(met) <= at_once
    assert sum(met) == 2 * 12 * 5, "every sentence once, and once more for the gradient"
    met.clear()
    with torch.no_grad():
        method.logits(batch().images)
    assert max(met) <= at_once
    assert sum(met) == 12 * 5


def test_in_turn_keeps_little_for_the_gradient(clip: PromptedClip) -> None:
    def kept(method: Method) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            method.loss(batch())
        return sum(sizes)

    assert kept(build(clip, 5)) < kept(build(clip)) / 20


@pytest.mark.parametrize("sizes", [(4, 0, 0), (0, 4, 4), (4, 4, 4)])
def test_only_candidates_are_encoded(
    clip: PromptedClip, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int, int]
) -> None:
    method, images, right, met = build(clip), batch(*sizes), clip.encode_text, []
    candidates = 3 if sizes == (4, 0, 0) else 5
    expected = cross_entropy(method.logits(images.images)[:, :candidates], images.labels)
    monkeypatch.setattr(clip, "encode_text", lambda tokens, *a: met.append(len(tokens.ids)) or right(tokens, *a))
    losses = method.loss(images)
    assert met == [candidates]
    assert set(losses) == {"classification", "total"}
    torch.testing.assert_close(losses["total"], expected)


def test_context_and_net_are_learned(clip: PromptedClip) -> None:
    method = build(clip)
    found = gradients(method, batch())
    layers = [f"meta_net.{layer}.{kind}" for layer in ("linear1", "linear2") for kind in ("weight", "bias")]
    assert sorted(found) == sorted(["text_prompts.0", *layers]) == sorted(method.state_dict())
    assert all(gradient.any() for gradient in found.values())
    assert method.meta_net.linear1.weight.shape == (clip.text.dim // 16, clip.text.dim)


def test_bf16_keeps_context_and_net_in_float32(clip: PromptedClip) -> None:
    half = PromptedClip(replace(clip.backbone, precision="bf16"))
    found = gradients(build(half, 7), batch())
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}


def test_a_phrase_with_too_few_words_is_refused() -> None:
    with pytest.raises(ValueError, match="text_tokens is 6"):
        CoCoOp.Settings(text_tokens=6)


def test_no_sentence_at_a_time_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        CoCoOp.Settings(prompts_at_once=0)
