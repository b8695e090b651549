"""What a method promises, whatever it learns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from torch.nn.functional import cross_entropy

from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import PromptTokens
from syncclip.core.settings import UserError
from syncclip.methods import METHODS, MethodsSettings, build_method, find_method
from syncclip.methods.ivlp import Ivlp
from syncclip.methods.syncclip import SyncClip, alignment
from syncclip.methods.zeroshot import ZeroShot
from tests.methods.classes import DATASET, batch


def test_the_table_and_the_settings_name_the_same_methods() -> None:
    assert list(MethodsSettings.model_fields) == [*METHODS, "own"]
    for name, method in METHODS.items():
        assert type(getattr(MethodsSettings(), name)) is method.Settings


def test_an_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no method is called 'synclip'; did you mean 'syncclip'"):
        find_method("synclip")


@pytest.mark.parametrize("name", METHODS)
def test_texts_of_some_classes_are_those_of_all(clip: PromptedClip, name: str) -> None:
    method = build_method(name, clip, DATASET)
    torch.testing.assert_close(method.text_features(slice(2)), method.text_features()[:2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.data and name != "vpt"])
def test_real_images_alone_cost_the_texts_of_base_classes_alone(
    clip: PromptedClip, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, right, encoded = build_method(name, clip, DATASET), PromptedClip.encode_text, []
    method.loss(batch(4, 0, 0))  # frozen texts are encoded once, and then no more

    def counting(clip: PromptedClip, tokens: PromptTokens, prompts: Sequence[Tensor] = ()) -> Tensor:
        encoded.append(len(tokens.ids))
        return right(clip, tokens, prompts)

    monkeypatch.setattr(PromptedClip, "encode_text", counting)
    method.loss(batch(4, 0, 0))
    method.loss(batch(4, 4, 4))
    assert encoded == [3, 5]


@pytest.mark.parametrize("name", METHODS)
def test_logits_are_over_all_classes(clip: PromptedClip, name: str) -> None:
    method = build_method(name, clip, DATASET)
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


def test_text_prompts_start_as_the_words_of_the_phrase(clip: PromptedClip) -> None:
    method = build_method("ivlp", clip, DATASET, Ivlp.Settings(text_tokens=2, text_depth=1, phrase="a photo of a"))
    words = clip.model.token_embedding(clip.backbone.tokenizer(["a photo"]))[0, 1:3]
    assert torch.equal(method.state_dict()["text_prompts.0"], words)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "zeroshot"])
def test_what_starts_as_words_is_of_the_type_of_what_starts_at_random(clip: PromptedClip, name: str) -> None:
    method = build_method(name, clip.double(), DATASET)
    assert {(parameter.dtype, parameter.device.type) for parameter in method.parameters()} == {(torch.float32, "cpu")}


def test_the_clip_follows_its_method_to_another_type_or_device(clip: PromptedClip) -> None:
    method = build_method("ivlp", clip, DATASET).double()
    assert method.clip.model.visual.proj.dtype == torch.float64
    assert method.tokens.embeddings.dtype == torch.float64


@pytest.mark.parametrize("name", [name for name in METHODS if name != "cocoop"])  # its texts are each image's own
def test_evaluation_encodes_the_texts_once(clip: PromptedClip, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    method, calls = build_method(name, clip, DATASET).eval(), []
    right = clip.encode_text
    monkeypatch.setattr(clip, "encode_text", lambda *a: calls.append(1) or right(*a))
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


def test_ivlp_on_real_images_tells_base_classes_apart(clip: PromptedClip) -> None:
    method, real = build_method("ivlp", clip, DATASET), batch(seen=0, novel=0)
    expected = cross_entropy(method.logits(real.images)[:, :3], real.labels)
    torch.testing.assert_close(method.loss(real)["total"], expected)


@pytest.mark.parametrize("real", [0, 4])
def test_ivlp_on_synthetic_or_mixed_images_tells_all_classes_apart(clip: PromptedClip, real: int) -> None:
    method, mixed = build_method("ivlp", clip, DATASET), batch(real=real)
    expected = cross_entropy(method.logits(mixed.images), mixed.labels)
    torch.testing.assert_close(method.loss(mixed)["total"], expected)


def test_syncclip_learns_from_whatever_is_there(clip: PromptedClip) -> None:
    method = build_method("syncclip", clip, DATASET)
    terms = {
        sizes: sorted(set(method.loss(batch(*sizes))) - {"total"})
        for sizes in [(4, 0, 0), (0, 4, 4), (4, 4, 4), (4, 4, 0), (0, 4, 0)]
    }
    assert terms == {
        (4, 0, 0): ["real"],
        (0, 4, 4): ["synthetic"],
        (4, 4, 4): ["alignment", "real", "synthetic"],
        (4, 4, 0): ["alignment", "real", "synthetic"],
        (0, 4, 0): ["synthetic"],
    }


def test_the_total_is_the_weighted_sum_of_the_terms(clip: PromptedClip) -> None:
    settings = SyncClip.Settings(synthetic_weight=0.3, alignment_weight=2.0)
    losses = build_method("syncclip", clip, DATASET, settings).loss(batch())
    expected = losses["real"] + 0.3 * losses["synthetic"] + 2.0 * losses["alignment"]
    torch.testing.assert_close(losses["total"], expected)


def test_one_term_alone_has_no_weight(clip: PromptedClip) -> None:
    losses = build_method("syncclip", clip, DATASET).loss(batch(real=0))
    assert torch.equal(losses["total"], losses["synthetic"])


def test_all_groups_go_through_the_vision_tower_at_once(clip: PromptedClip, monkeypatch: pytest.MonkeyPatch) -> None:
    method, sizes, right = build_method("syncclip", clip, DATASET), [], clip.encode_images
    monkeypatch.setattr(clip, "encode_images", lambda images, *a: sizes.append(len(images)) or right(images, *a))
    method.loss(batch())
    assert sizes == [12]


def test_one_pass_over_both_domains_is_two_passes(clip: PromptedClip) -> None:
    method, mixed = build_method("syncclip", clip, DATASET), batch()
    both = method.image_features(mixed.images, mixed.domains)
    apart = [method.image_features(mixed.images[d == mixed.domains], mixed.domains[d == mixed.domains]) for d in (0, 1)]
    torch.testing.assert_close(both, torch.cat(apart), rtol=0, atol=1e-5)
    torch.testing.assert_close(both[:4], method.image_features(mixed.images[:4]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [0, 4])
def test_all_or_none_of_the_visual_prompts_may_be_shared(clip: PromptedClip, k: int) -> None:
    method, mixed = build_method("syncclip", clip, DATASET, SyncClip.Settings(domain_tokens=k)), batch()
    as_real = method.image_features(mixed.images)
    as_synthetic = method.image_features(mixed.images, torch.ones(12, dtype=torch.long))
    assert torch.allclose(as_real, as_synthetic, atol=1e-6) == (k == 0)
    method.loss(mixed)["total"].backward()


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_alignment_is_what_a_loop_over_images_gives(negatives: Literal["hardest", "all"]) -> None:
    real, synthetic, labels = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 1, 1, 2, 0, 2])
    expected = 0.0
    for i in range(6):
        own = (synthetic[i] - real[i]).abs().mean()
        others = [(synthetic[i] - real[j]).abs().mean() for j in range(6) if labels[j] != labels[i]]
        against = [min(others)] if negatives == "hardest" else others
        expected += float(own + sum(max(own - q, torch.tensor(0.0)) for q in against) / len(against)) / 6
    assert float(alignment(real, synthetic, labels, negatives)) == pytest.approx(expected, rel=1e-5)


def test_bf16_keeps_prompts_gradients_and_losses_in_float32(folder: Path) -> None:
    clip = PromptedClip(load_backbone(BackboneSettings(name=str(folder), precision="bf16")))
    method = build_method("syncclip", clip, DATASET)
    total = method.loss(batch())["total"]
    total.backward()
    assert total.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in method.parameters())


def test_more_domain_tokens_than_visual_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="domain_tokens is 3, but .* visual_tokens, of which there are only 2"):
        SyncClip.Settings(visual_tokens=2, domain_tokens=3)


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_a_depth_beyond_the_tower_is_refused(clip: PromptedClip, tower: str) -> None:
    settings = SyncClip.Settings.model_validate({f"{tower}_depth": 4})
    with pytest.raises(UserError, match=rf"{tower}_depth: 4 blocks .* this tower has 3"):
        build_method("syncclip", clip, DATASET, settings)


def test_prompts_longer_than_the_context_are_refused(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match="fewer text tokens"):
        build_method("ivlp", clip, DATASET, Ivlp.Settings(text_tokens=15))


def test_a_resnet_serves_zero_shot_but_not_prompts() -> None:
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32)
    model = CLIP(8, vision, CLIPTextCfg(context_length=16, vocab_size=49408, width=8, heads=1, layers=1))
    clip = PromptedClip(Backbone("RN1", model, open_clip.SimpleTokenizer(), lambda i: i, (0,) * 3, (1,) * 3, 32))
    assert build_method("zeroshot", clip, DATASET).logits(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(UserError, match="it cannot take prompts"):
        build_method("ivlp", clip, DATASET)


def test_zero_shot_of_one_template_twice_is_that_template(clip: PromptedClip) -> None:
    once = build_method("zeroshot", clip, DATASET)
    twice = build_method("zeroshot", clip, DATASET, ZeroShot.Settings(templates=(DATASET.template,) * 2))
    torch.testing.assert_close(once.text_features(), twice.text_features())


@pytest.mark.parametrize("template", ["a photo.", "a {thing}.", "a {} and a {}."])
def test_a_template_of_an_ensemble_without_one_place_for_the_name_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"must hold \{\} exactly once"):
        ZeroShot.Settings(templates=("a photo of a {}.", template))
