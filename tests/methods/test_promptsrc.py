"""PromptSRC: regularisation towards the frozen CLIP, and the average over epochs."""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.promptsrc import PromptSrc, divergence, gaussian_weights, published_templates
from tests.methods.classes import DATASET, SIZES, batch
from tests.methods.test_frozen import LONG


def build(clip: PromptedClip, **values: Any) -> PromptSrc:
    """A method with two templates by default."""
    settings = PromptSrc.Settings(**{"templates": ("a {}.", "the {}"), **values})
    method = build_method("promptsrc", clip, DATASET, settings)
    assert isinstance(method, PromptSrc)
    return method


@pytest.mark.parametrize(("sizes", "candidates"), SIZES)
def test_loss_terms(clip: PromptedClip, sizes: tuple[int, int, int], candidates: int) -> None:
    method, images = build(clip, text_weight=2.0, image_weight=3.0, logits_weight=5.0), batch(*sizes)
    losses = method.loss(images)
    scores = method.logits(images.images)[:, :candidates]
    frozen_text, frozen_images = method.frozen_texts()[:candidates], clip.encode_images(images.images)
    frozen_scores = clip.logit_scale * cosine_similarity(frozen_images[:, None], frozen_text, dim=-1)
    features = normalize(method.image_features(images.images), dim=-1)
    expected = {
        "classification": cross_entropy(scores, images.labels),
        "text": (method.text_features()[:candidates] - frozen_text).abs().mean(),
        "image": (features - normalize(frozen_images, dim=-1)).abs().mean(),
        "logits": divergence(frozen_scores, scores),
    }
    regularisation = 2 * expected["text"] + 3 * expected["image"] + 5 * expected["logits"]
    expected["total"] = expected["classification"] + regularisation
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_divergence_equals_a_loop() -> None:
    teacher, student = torch.randn(2, 3, 4).unbind()
    p, q = teacher.softmax(dim=-1), student.softmax(dim=-1)
    expected = sum(p[b, c] * (p[b, c].log() - q[b, c].log()) for b in range(3) for c in range(4)) / 12
    torch.testing.assert_close(divergence(teacher, student), expected)


def test_frozen_features_need_no_gradient_and_texts_are_encoded_once(
    clip: PromptedClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, calls = build(clip), []
    for tower in ("encode_text", "encode_images"):
        original = getattr(clip, tower)

        def counting(inputs: Any, *prompts: Any, tower: str = tower, original: Any = original) -> torch.Tensor:
            calls.append((tower, "prompted" if prompts else "frozen", torch.is_grad_enabled()))
            return original(inputs, *prompts)

        monkeypatch.setattr(clip, tower, counting)
    for _ in range(3):
        method.loss(batch())["total"].backward()
    assert {call: calls.count(call) for call in calls} == {
        ("encode_text", "frozen", False): 2,  # once per template
        ("encode_text", "prompted", True): 3,
        ("encode_images", "frozen", False): 3,
        ("encode_images", "prompted", True): 3,
    }


def test_published_templates() -> None:
    templates = published_templates()
    assert templates[:3] == ["a photo of a {}.", "a bad photo of a {}.", "a photo of many {}."]
    assert len(set(templates)) == 60
    checksum = sha256("\n".join(templates).encode()).hexdigest()
    assert checksum == "dc3398ed3ffc7c259342582bc0f36d7ac66c4dee17981a37b77b0fc9c23d4f72"


def test_only_published_templates_may_exceed_the_context(clip: PromptedClip) -> None:
    def fits(template: str) -> bool:
        tokens = clip.backbone.tokenizer([template.format("blue car")], context_length=77)
        return int(tokens.argmax()) < clip.context

    method = build_method("promptsrc", clip, DATASET)
    fitting = build(clip, templates=tuple(filter(fits, published_templates())))
    assert torch.equal(method.frozen_texts(), fitting.frozen_texts())
    with pytest.raises(UserError, match="exceeds the CLIP context"):
        build(clip, templates=("a {}.", LONG)).loss(batch())


def test_weights_of_epochs_are_a_normal_density() -> None:
    density = [math.exp(-((epoch - 3.5) ** 2) / (2 * 2.0**2)) for epoch in (1, 2, 3, 4, 5)]
    assert gaussian_weights(5, 3.5, 2.0) == pytest.approx([value / sum(density) for value in density])
    assert gaussian_weights(3, 45.0, 0.5) == pytest.approx([0, 0, 1])  # densities underflow


def test_prompts_are_replaced_by_their_average_after_the_last_epoch(clip: PromptedClip) -> None:
    method = build(clip, aggregation_mean=2.0, aggregation_std=1.0)
    epochs = []
    for done in (1, 2, 3):
        with torch.no_grad():
            for prompt in method.parameters():
                prompt.normal_()
        epochs.append({name: value.clone() for name, value in method.state_dict().items()})
        method.epoch_ended(done, 3)
        if done < 3:
            assert all(torch.equal(value, epochs[-1][name]) for name, value in method.state_dict().items())
    weights = gaussian_weights(3, 2.0, 1.0)
    for name, value in method.state_dict().items():
        expected = sum(weight * prompts[name] for weight, prompts in zip(weights, epochs, strict=True))
        torch.testing.assert_close(value, expected)


def test_evaluation_after_the_last_epoch_uses_the_averaged_prompts(clip: PromptedClip) -> None:
    method, images = build(clip, aggregation_mean=1.0).eval(), batch().images
    with torch.no_grad():
        method.epoch_ended(1, 2)
        for prompt in method.parameters():
            prompt.normal_()
        before = method.logits(images)
        method.epoch_ended(2, 2)
        after = method.logits(images)
        expected = method.scores(method.image_features(images), method.text_features())
    assert not torch.allclose(before, after)
    assert torch.equal(after, expected)


def test_average_is_in_the_memory(clip: PromptedClip) -> None:
    method = build(clip)
    (average,) = method.memory().values()
    assert average.numel() == sum(prompt.numel() for prompt in method.parameters()) and not average.any()
    method.epoch_ended(1, 2)
    assert method.memory()["average"] is average and average.any()
