"""Properties of all methods."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import PromptTokens
from syncclip.core.settings import UserError
from syncclip.methods import METHODS, build_method, find_method
from syncclip.methods.settings import MethodsSettings, Optimisation
from syncclip.methods.syncclip import SyncClip
from syncclip.methods.zeroshot import ZeroShot
from tests.methods.classes import DATASET, SIZES, batch

FROZEN_TEXTS = ("vpt", "probe", "tip", "classmeans", "promptkd")
"""Methods that learn, but encode no texts in a step."""


def test_every_method_has_settings() -> None:
    assert list(MethodsSettings.model_fields) == [*METHODS, "custom"]
    for name, method in METHODS.items():
        assert type(getattr(MethodsSettings(), name)) is method.Settings


def test_unknown_method_suggests_the_closest() -> None:
    with pytest.raises(UserError, match="did you mean 'syncclip'"):
        find_method("synclip")


@pytest.mark.parametrize("name", METHODS)
def test_text_features_of_a_slice(clip: PromptedClip, name: str) -> None:
    method = build_method(name, clip, DATASET)
    torch.testing.assert_close(method.text_features(slice(2)), method.text_features()[:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_logits_of_all_classes(clip: PromptedClip, name: str) -> None:
    method = build_method(name, clip, DATASET)
    method.meet_teacher(normalize(torch.randn(method.text_features().shape), dim=-1))
    assert method.logits(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert torch.allclose(method.text_features().norm(dim=-1), torch.ones(5))


@pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if method.Settings.data and name not in FROZEN_TEXTS]
)
def test_a_step_encodes_candidate_classes_only(clip: PromptedClip, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, original, encoded = build_method(name, clip, DATASET), PromptedClip.encode_text, []
    method.loss(batch(4, 0, 0))  # encodes and caches frozen texts

    def counting(clip: PromptedClip, tokens: PromptTokens, *args: Any, **kwargs: Any) -> Tensor:
        encoded.append(len(tokens.ids))
        return original(clip, tokens, *args, **kwargs)

    monkeypatch.setattr(PromptedClip, "encode_text", counting)
    method.loss(batch(4, 0, 0))
    method.loss(batch(4, 4, 4))
    assert encoded == [3, 5]


@pytest.mark.parametrize("name", ["coop", "cocoop", "vpt", "ivlp", "maple", "probe"])
@pytest.mark.parametrize(("sizes", "candidates"), SIZES)
def test_loss_is_one_cross_entropy_over_the_candidates(
    clip: PromptedClip, name: str, sizes: tuple[int, int, int], candidates: int
) -> None:
    method, images = build_method(name, clip, DATASET), batch(*sizes)
    expected = cross_entropy(method.logits(images.images)[:, :candidates], images.labels)
    losses = method.loss(images)
    assert losses.keys() == {"classification", "total"}
    torch.testing.assert_close(losses["total"], expected)
    as_real = images._replace(domains=torch.zeros_like(images.domains))
    assert torch.equal(method.loss(as_real)["total"], losses["total"])


def blocks(*prefixes: str, count: int = 3) -> list[str]:
    return [f"{prefix}.{block}" for prefix in prefixes for block in range(count)]


def linear(*layers: str) -> list[str]:
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


@pytest.mark.parametrize(
    ("name", "settings", "learned"),
    [
        ("zeroshot", {}, []),
        ("coop", {}, ["text_prompts.0"]),
        ("cocoop", {}, ["text_prompts.0", *linear("meta_net.linear1", "meta_net.linear2")]),
        ("kgcoop", {}, ["text_prompts.0"]),
        ("tcp", {}, ["text_prompts.0", *linear("meta_net.linear1", "meta_net.linear2")]),
        ("vpt", {}, blocks("vision_prompts")),
        ("vpt", {"visual_depth": 1}, ["vision_prompts.0"]),
        ("maple", {"depth": 1}, ["text_prompts.0", *linear("projections.0")]),
        ("maple", {"depth": 2}, [*blocks("text_prompts", count=2), *linear("projections.0", "projections.1")]),
        ("promptsrc", {}, blocks("text_prompts", "vision_prompts")),
        ("syncclip", {}, blocks("text_prompts", "vision_prompts", "synthetic_prompts")),
        (
            "mmrl",
            {"layers": (2, 3)},
            ["projection", "shared_tokens", *linear("to_text.0", "to_text.1", "to_vision.0", "to_vision.1")],
        ),
    ],
)
def test_learned_parameters(clip: PromptedClip, name: str, settings: dict[str, Any], learned: list[str]) -> None:
    method = build_method(name, clip, DATASET, METHODS[name].Settings(**settings))
    assert sorted(method.state_dict()) == sorted(learned) == sorted(name for name, _ in method.named_parameters())


def test_seed_determines_the_initial_values_without_side_effects(clip: PromptedClip) -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    first, second, third = (build_method("ivlp", clip, DATASET, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["vision_prompts.0"], third["vision_prompts.0"])


@pytest.mark.parametrize("name", [name for name in METHODS if name != "zeroshot"])
def test_parameters_are_float32_for_any_clip(clip: PromptedClip, name: str) -> None:
    method = build_method(name, clip.double(), DATASET)
    assert {(parameter.dtype, parameter.device.type) for parameter in method.parameters()} == {(torch.float32, "cpu")}


def test_clip_follows_its_method_to_another_type(clip: PromptedClip) -> None:
    method = build_method("ivlp", clip, DATASET).double()
    assert method.clip.model.visual.proj.dtype == torch.float64
    assert method.tokens.embeddings.dtype == torch.float64


# Texts of CoCoOp depend on the image; a linear probe has only initial ones, PromptKD none.
@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("cocoop", "probe", "promptkd")])
def test_evaluation_encodes_texts_once(clip: PromptedClip, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    method, calls = build_method(name, clip, DATASET).eval(), []
    if name == "tcp":
        method.frozen_texts()  # input of the network
    original = clip.encode_text
    monkeypatch.setattr(clip, "encode_text", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    with torch.no_grad():
        for _ in range(3):
            method.logits(torch.randn(2, 3, 32, 32))
    assert len(calls) == 1


@pytest.mark.parametrize("change", ["step", "load", "data"])
def test_changed_prompts_invalidate_the_cached_texts(clip: PromptedClip, change: str) -> None:
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
        expected = method.scores(method.image_features(images), method.text_features())
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected)


def test_total_is_the_weighted_sum_of_several_terms(clip: PromptedClip) -> None:
    settings = SyncClip.Settings(synthetic_weight=0.3, alignment_weight=2.0)
    method = build_method("syncclip", clip, DATASET, settings)
    losses = method.loss(batch())
    expected = losses["real"] + 0.3 * losses["synthetic"] + 2.0 * losses["alignment"]
    torch.testing.assert_close(losses["total"], expected)
    single = method.loss(batch(real=0))
    assert torch.equal(single["total"], single["synthetic"])


def test_losses_and_gradients_are_float32_with_bf16(folder: Path) -> None:
    clip = PromptedClip(load_backbone(BackboneSettings(name=str(folder), precision="bf16")))
    for name in ("cocoop", "syncclip"):
        method = build_method(name, clip, DATASET)
        total = method.loss(batch())["total"]
        total.backward()
        assert total.dtype == torch.float32
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in method.parameters())


def small_clip(vision: CLIPVisionCfg, layers: int) -> PromptedClip:
    text = CLIPTextCfg(context_length=16, vocab_size=49408, width=8, heads=1, layers=layers)
    tokenizer = open_clip.SimpleTokenizer()
    model = CLIP(8, vision, text).eval()
    return PromptedClip(Backbone("small", model, tokenizer, lambda image: image, (0,) * 3, (1,) * 3, 32))


def test_resnet_supports_methods_without_visual_prompts() -> None:
    clip = small_clip(CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32), layers=1)
    for name in ("zeroshot", "coop", "cocoop", "kgcoop"):
        method = build_method(name, clip, DATASET)
        assert method.logits(torch.randn(2, 3, 32, 32)).shape == (2, 5)
        if name != "zeroshot":
            method.loss(batch())["total"].backward()
            assert all(p.grad is not None for p in method.parameters())
    with pytest.raises(UserError, match="does not support prompts"):
        build_method("ivlp", clip, DATASET)


def test_depth_of_maple_is_limited_by_the_shallower_tower() -> None:
    vision = CLIPVisionCfg(layers=3, width=32, head_width=16, patch_size=8, image_size=32)
    clip = small_clip(vision, layers=2)
    assert len(build_method("maple", clip, DATASET).text_prompts) == 2
    with pytest.raises(UserError, match="depth is .* at most 2"):
        build_method("maple", clip, DATASET, METHODS["maple"].Settings.model_validate({"depth": 3}))


@pytest.mark.parametrize("name", METHODS)
def test_building_a_method_encodes_nothing(folder: Path, name: str) -> None:
    clip = PromptedClip(load_backbone(BackboneSettings(name=str(folder), precision="fp16")))
    build_method(name, clip, DATASET)  # half precision requires a GPU, to which the CLIP is moved later


@pytest.mark.parametrize(
    ("name", "key"),
    [*itertools.product(("ivlp", "syncclip", "promptsrc"), ("visual_depth", "text_depth")), ("vpt", "visual_depth")],
)
def test_depth_is_limited_by_the_tower(clip: PromptedClip, name: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"{key} is .* at most 3"):
        build_method(name, clip, DATASET, METHODS[name].Settings.model_validate({key: 4}))


@pytest.mark.parametrize("name", ["ivlp", "maple"])
def test_text_tokens_are_limited_by_the_context(clip: PromptedClip, name: str) -> None:
    with pytest.raises(UserError, match="fewer text tokens"):
        build_method(name, clip, DATASET, METHODS[name].Settings.model_validate({"text_tokens": 15}))


def test_initial_words_of_deep_prompts(clip: PromptedClip) -> None:
    settings = METHODS["ivlp"].Settings.model_validate({"text_tokens": 2, "initial_words": "a photo of a"})
    words = clip.model.token_embedding(clip.backbone.tokenizer(["a photo"]))[0, 1:3]
    assert torch.equal(build_method("ivlp", clip, DATASET, settings).state_dict()["text_prompts.0"], words)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        *((name, {"template": "a photo."}, "exactly once") for name in ("kgcoop", "vpt", "tcp")),
        *(
            (name, {"templates": ["a {}.", template]}, "exactly once")
            for name in ("zeroshot", "promptsrc")
            for template in ("a photo.", "a {thing}.", "a {} and a {}.")
        ),
        ("promptsrc", {"templates": []}, "at least 1 item"),
        ("coop", {"initial_words": "a photo", "text_tokens": 4}, "text_tokens is 4"),
        ("coop", {"position": "back"}, "'end', 'middle' or 'front'"),
        ("cocoop", {"text_tokens": 6}, "text_tokens is 6"),
        ("cocoop", {"prompts_at_once": 0}, "greater than or equal to 1"),
        ("syncclip", {"visual_tokens": 2, "domain_tokens": 3}, "domain_tokens is 3"),
    ],
)
def test_invalid_settings(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        METHODS[name].Settings.model_validate(values)


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
def test_defaults_are_the_published_values(name: str, published: dict[str, object]) -> None:
    settings = METHODS[name].Settings()
    assert {key: getattr(settings, key) for key in published} == published


def test_zero_shot_ensemble_of_equal_templates_is_that_template(clip: PromptedClip) -> None:
    settings = ZeroShot.Settings(templates=(DATASET.template,) * 2)
    once, twice = build_method("zeroshot", clip, DATASET), build_method("zeroshot", clip, DATASET, settings)
    torch.testing.assert_close(once.text_features(), twice.text_features())
