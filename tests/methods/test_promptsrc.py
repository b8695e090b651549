"""PromptSRC: what holds its prompts near the frozen CLIP, and how they are averaged."""

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
from tests.methods.classes import DATASET, batch


def built(clip: PromptedClip, **values: Any) -> PromptSrc:
    """With two templates, where no others are named."""
    settings = PromptSrc.Settings(**{"templates": ("a {}.", "the {}"), **values})
    method = build_method("promptsrc", clip, DATASET, settings)
    assert isinstance(method, PromptSrc)
    return method


@pytest.mark.parametrize(("sizes", "candidates"), [((4, 0, 0), 3), ((0, 4, 4), 5), ((4, 4, 4), 5)])
def test_all_terms_are_over_the_candidates(clip: PromptedClip, sizes: tuple[int, int, int], candidates: int) -> None:
    method, given = built(clip), batch(*sizes)
    losses = method.loss(given)
    scores = method.logits(given.images)[:, :candidates]
    frozen_text, frozen_images = method.frozen_texts()[:candidates], clip.encode_images(given.images)
    frozen_scores = clip.logit_scale * cosine_similarity(frozen_images[:, None], frozen_text, dim=-1)
    images = normalize(method.image_features(given.images), dim=-1)
    expected = {
        "classification": cross_entropy(scores, given.labels),
        "text": (method.text_features()[:candidates] - frozen_text).abs().mean(),
        "image": (images - normalize(frozen_images, dim=-1)).abs().mean(),
        "logits": divergence(frozen_scores, scores),
    }
    expected["total"] = expected["classification"] + 25 * expected["text"] + 10 * expected["image"] + expected["logits"]
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_each_regulariser_has_its_weight(clip: PromptedClip) -> None:
    losses = built(clip, text_weight=2.0, image_weight=3.0, logits_weight=5.0).loss(batch())
    expected = losses["classification"] + 2 * losses["text"] + 3 * losses["image"] + 5 * losses["logits"]
    torch.testing.assert_close(losses["total"], expected)


def test_the_divergence_is_what_a_loop_over_the_table_gives() -> None:
    teacher, student = torch.randn(2, 3, 4).unbind()
    p, q = teacher.softmax(dim=-1), student.softmax(dim=-1)
    expected = sum(p[b, c] * (p[b, c].log() - q[b, c].log()) for b in range(3) for c in range(4)) / 12
    torch.testing.assert_close(divergence(teacher, student), expected)


def test_the_teacher_is_frozen_and_its_texts_are_encoded_once(
    clip: PromptedClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, calls = built(clip), []
    for tower in ("encode_text", "encode_images"):
        right = getattr(clip, tower)

        def counted(inputs: Any, *prompts: Any, tower: str = tower, right: Any = right) -> torch.Tensor:
            calls.append((tower, "prompted" if prompts else "frozen", torch.is_grad_enabled()))
            return right(inputs, *prompts)

        monkeypatch.setattr(clip, tower, counted)
    for _ in range(3):
        method.loss(batch())["total"].backward()
    count = {call: calls.count(call) for call in calls}
    assert count == {
        ("encode_text", "frozen", False): 2,  # one a template
        ("encode_text", "prompted", True): 3,
        ("encode_images", "frozen", False): 3,
        ("encode_images", "prompted", True): 3,
    }


def test_the_published_templates_that_are_too_long_are_left_out(clip: PromptedClip) -> None:
    method = build_method("promptsrc", clip, DATASET)
    fitting = [template for template in published_templates() if _fits(clip, template)]
    named = build_method("promptsrc", clip, DATASET, PromptSrc.Settings(templates=tuple(fitting)))
    assert torch.equal(method.frozen_texts(), named.frozen_texts())


def _fits(clip: PromptedClip, template: str) -> bool:
    return int(clip.backbone.tokenizer([template.format("blue car")], context_length=77).argmax()) < clip.context


def test_templates_of_ones_own_must_fit(clip: PromptedClip) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve {}"
    with pytest.raises(UserError, match="does not fit"):
        built(clip, templates=("a {}.", long)).loss(batch())


@pytest.mark.parametrize("templates", [(), ("a photo",), ("{} or {}",)])
def test_templates_without_one_place_for_the_name_are_refused(templates: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="at least 1 item|exactly once"):
        PromptSrc.Settings(templates=templates)


def test_the_weights_are_a_normal_density_over_the_epochs_counted_from_one() -> None:
    density = [math.exp(-((epoch - 3.5) ** 2) / (2 * 2.0**2)) for epoch in (1, 2, 3, 4, 5)]
    assert gaussian_weights(5, 3.5, 2.0) == pytest.approx([value / sum(density) for value in density])


def test_a_mean_far_behind_the_end_leaves_the_last_epoch() -> None:
    assert gaussian_weights(3, 45.0, 0.5) == pytest.approx([0, 0, 1])


def test_prompts_become_their_average_with_the_last_epoch(clip: PromptedClip) -> None:
    method = built(clip, aggregation_mean=2.0, aggregation_std=1.0)
    met = []
    for done in (1, 2, 3):
        with torch.no_grad():
            for prompt in method.parameters():
                prompt.normal_()
        met.append({name: value.clone() for name, value in method.state_dict().items()})
        method.epoch_ended(done, 3)
        assert done == 3 or all(torch.equal(value, met[-1][name]) for name, value in method.state_dict().items())
    weights = gaussian_weights(3, 2.0, 1.0)
    for name, value in method.state_dict().items():
        expected = sum(weight * prompts[name] for weight, prompts in zip(weights, met, strict=True))
        torch.testing.assert_close(value, expected)


def test_evaluation_after_the_last_epoch_sees_the_averaged_prompts(clip: PromptedClip) -> None:
    method, images = built(clip, aggregation_mean=1.0).eval(), batch().images
    with torch.no_grad():
        method.epoch_ended(1, 2)
        for prompt in method.parameters():
            prompt.normal_()
        before = method.logits(images)
        method.epoch_ended(2, 2)
        after = method.logits(images)
        fresh = method.scores(method.image_features(images), method.text_features())
    assert not torch.allclose(before, after)
    assert torch.equal(after, fresh)


def test_the_average_is_carried_in_the_memory_and_not_in_the_state_dict(clip: PromptedClip) -> None:
    method = built(clip)
    assert sorted(method.state_dict()) == sorted(name for name, _ in method.named_parameters())
    (average,) = method.memory().values()
    assert average.numel() == sum(prompt.numel() for prompt in method.parameters()) and not average.any()
    method.epoch_ended(1, 2)
    assert method.memory()["average"] is average and average.any()


def test_the_published_templates_are_those_of_the_published_code_in_its_order() -> None:
    templates = published_templates()
    assert templates[:3] == ["a photo of a {}.", "a bad photo of a {}.", "a photo of many {}."]
    assert len(set(templates)) == 60
    assert (
        sha256("\n".join(templates).encode()).hexdigest()
        == "dc3398ed3ffc7c259342582bc0f36d7ac66c4dee17981a37b77b0fc9c23d4f72"
    )
