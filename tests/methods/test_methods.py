"""What a method promises, whatever it learns."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import PromptTokens
from syncclip.core.settings import UserError
from syncclip.methods import METHODS, build_method, find_method
from syncclip.methods.settings import MethodsSettings, Optimisation
from syncclip.methods.syncclip import SyncClip
from tests.methods.classes import DATASET, batch

FIXED = ("vpt", "probe", "tip", "promptkd")
"""Methods that learn something, but no texts."""


def test_the_table_and_the_settings_name_the_same_methods() -> None:
    assert list(MethodsSettings.model_fields) == [*METHODS, "custom"]
    for name, method in METHODS.items():
        assert type(getattr(MethodsSettings(), name)) is method.Settings


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'syncclip'"):
        find_method("synclip")


@pytest.mark.parametrize("name", METHODS)
def test_texts_of_some_classes_are_those_of_all(clip: PromptedClip, name: str) -> None:
    method = build_method(name, clip, DATASET)
    torch.testing.assert_close(method.text_features(slice(2)), method.text_features()[:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if method.Settings.data and name not in FIXED]
)
def test_real_images_alone_cost_the_texts_of_base_classes_alone(
    clip: PromptedClip, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, right, encoded = build_method(name, clip, DATASET), PromptedClip.encode_text, []
    method.loss(batch(4, 0, 0))  # frozen texts are encoded once, and then no more

    def counting(clip: PromptedClip, tokens: PromptTokens, *others: Any, **named: Any) -> Tensor:
        encoded.append(len(tokens.ids))
        return right(clip, tokens, *others, **named)

    monkeypatch.setattr(PromptedClip, "encode_text", counting)
    method.loss(batch(4, 0, 0))
    method.loss(batch(4, 4, 4))
    assert encoded == [3, 5]


@pytest.mark.parametrize("name", METHODS)
def test_logits_are_over_all_classes(clip: PromptedClip, name: str) -> None:
    method = build_method(name, clip, DATASET)
    method.meet_teacher(normalize(torch.randn(method.text_features().shape), dim=-1))  # whose class vectors one takes
    assert method.logits(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert torch.allclose(method.text_features().norm(dim=-1), torch.ones(5))


def test_a_state_dict_holds_only_what_is_learned(clip: PromptedClip) -> None:
    method = build_method("syncclip", clip, DATASET)
    names = [f"{kind}_prompts.{block}" for kind in ("text", "vision", "synthetic") for block in range(3)]
    assert sorted(method.state_dict()) == sorted(names) == sorted(name for name, _ in method.named_parameters())
    assert not build_method("zeroshot", clip, DATASET).state_dict()


def test_the_same_seed_gives_the_same_start_and_leaves_other_chance_alone(clip: PromptedClip) -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    first, second, third = (build_method("ivlp", clip, DATASET, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["vision_prompts.0"], third["vision_prompts.0"])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "zeroshot"])
def test_what_starts_as_words_is_of_the_type_of_what_starts_at_random(clip: PromptedClip, name: str) -> None:
    method = build_method(name, clip.double(), DATASET)
    assert {(parameter.dtype, parameter.device.type) for parameter in method.parameters()} == {(torch.float32, "cpu")}


def test_the_clip_follows_its_method_to_another_type_or_device(clip: PromptedClip) -> None:
    method = build_method("ivlp", clip, DATASET).double()
    assert method.clip.model.visual.proj.dtype == torch.float64
    assert method.tokens.embeddings.dtype == torch.float64


# CoCoOp's texts are each image's own; a linear probe has none but those that it starts as, PromptKD none.
@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("cocoop", "probe", "promptkd")])
def test_evaluation_encodes_the_texts_once(clip: PromptedClip, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    method, calls = build_method(name, clip, DATASET).eval(), []
    if name == "tcp":
        method.frozen_texts()  # what a class's own vectors are made from
    right = clip.encode_text
    monkeypatch.setattr(clip, "encode_text", lambda *a, **named: calls.append(1) or right(*a, **named))
    with torch.no_grad():
        for _ in range(3):
            method.logits(torch.randn(2, 3, 32, 32))
    assert len(calls) == 1


@pytest.mark.parametrize("change", ["step", "load", "data"])
def test_evaluation_after_a_change_sees_the_new_prompts(clip: PromptedClip, change: str) -> None:
    method, images = build_method("ivlp", clip, DATASET).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = method.logits(images)
    if change == "step":
        method.loss(batch())["total"].backward()
        torch.optim.SGD(method.parameters(), lr=10.0).step()
    elif change == "load":
        method.load_state_dict(build_method("ivlp", clip, DATASET, seed=5).state_dict())
    else:
        method.text_prompts[0].data.copy_(torch.randn(4, 16))
        method.eval()
    with torch.no_grad():
        after = method.logits(images)
    fresh = method.scores(method.image_features(images), method.text_features())
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, fresh.detach())


def test_the_total_is_the_weighted_sum_of_the_terms(clip: PromptedClip) -> None:
    settings = SyncClip.Settings(synthetic_weight=0.3, alignment_weight=2.0)
    losses = build_method("syncclip", clip, DATASET, settings).loss(batch())
    expected = losses["real"] + 0.3 * losses["synthetic"] + 2.0 * losses["alignment"]
    torch.testing.assert_close(losses["total"], expected)


def test_one_term_alone_has_no_weight(clip: PromptedClip) -> None:
    losses = build_method("syncclip", clip, DATASET).loss(batch(real=0))
    assert torch.equal(losses["total"], losses["synthetic"])


def test_bf16_keeps_prompts_gradients_and_losses_in_float32(folder: Path) -> None:
    clip = PromptedClip(load_backbone(BackboneSettings(name=str(folder), precision="bf16")))
    method = build_method("syncclip", clip, DATASET)
    total = method.loss(batch())["total"]
    total.backward()
    assert total.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in method.parameters())


def test_a_resnet_serves_zero_shot_but_not_prompts() -> None:
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32)
    model = CLIP(8, vision, CLIPTextCfg(context_length=16, vocab_size=49408, width=8, heads=1, layers=1))
    clip = PromptedClip(Backbone("RN1", model, open_clip.SimpleTokenizer(), lambda i: i, (0,) * 3, (1,) * 3, 32))
    assert build_method("zeroshot", clip, DATASET).logits(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(UserError, match="it cannot take prompts"):
        build_method("ivlp", clip, DATASET)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_for_a_gpu_alone_is_built_before_it_is_there(folder: Path, name: str) -> None:
    clip = PromptedClip(load_backbone(BackboneSettings(name=str(folder), precision="fp16")))
    build_method(name, clip, DATASET)  # encodes nothing: half precision needs a GPU, to which it is moved later


@pytest.mark.parametrize(
    ("name", "key"),
    [*itertools.product(("ivlp", "syncclip", "promptsrc"), ("visual_depth", "text_depth")), ("vpt", "visual_depth")],
)
def test_a_depth_beyond_the_tower_is_refused(clip: PromptedClip, name: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"{key}: .* at most 3"):
        build_method(name, clip, DATASET, METHODS[name].Settings.model_validate({key: 4}))


@pytest.mark.parametrize("name", ["kgcoop", "vpt", "tcp"])
def test_a_template_without_the_class_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="exactly once"):
        METHODS[name].Settings.model_validate({"template": "a photo."})


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("coop", {"learning_rate": 0.002, "initial_words": "", "position": "end", "class_specific": False}),
        ("cocoop", {"learning_rate": 0.002, "initial_words": "a photo of a"}),
        ("kgcoop", {"learning_rate": 0.002, "initial_words": "a photo of a", "knowledge_weight": 8.0}),
        ("tcp", {"learning_rate": 0.002, "text_tokens": 4, "class_tokens": 4, "knowledge_weight": 8.0}),
        ("tcp", {"optimisation": Optimisation("adam", weight_decay=5e-4, eps=1e-3)}),
        ("vpt", {"learning_rate": 0.0025, "visual_tokens": 8, "template": "a photo of a {}."}),
        ("maple", {"learning_rate": 0.0035, "text_tokens": 2, "initial_words": "a photo of a"}),
        ("promptsrc", {"learning_rate": 0.0025, "visual_tokens": 4, "text_tokens": 4}),
        ("promptsrc", {"text_weight": 25, "image_weight": 10, "logits_weight": 1}),
        ("promptsrc", {"aggregation_mean": 15, "aggregation_std": 1}),
        ("probe", {"learning_rate": 0.1, "optimisation": Optimisation("sgd", weight_decay=0.0)}),
        ("tip", {"learning_rate": 0.001, "alpha": 1.17, "beta": 1.0, "cache_size": 16, "views": 10}),
        ("mmrl", {"learning_rate": 0.001, "tokens": 5, "dim": 512, "class_weight": 0.7}),
        ("mmrl", {"optimisation": Optimisation("adamw", weight_decay=5e-4)}),
    ],
)
def test_the_published_settings_are_the_defaults(name: str, published: dict[str, object]) -> None:
    settings = METHODS[name].Settings()
    assert {key: getattr(settings, key) for key in published} == published
