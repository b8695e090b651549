"""MMRL: parity with the published code, and domain-specific tokens."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.mmrl import Mmrl, checked_layers
from tests.methods import parity
from tests.methods.classes import DATASET, SIZES, Classes, batch
from tests.methods.variants import Variant, variants_of

VARIANTS = variants_of("mmrl")
LIMITS = (2.5e-4, 2e-7)


def ours(theirs: str) -> str:
    """Our name of a parameter."""
    for name, renamed in (("r2tproj", "to_text"), ("r2vproj", "to_vision")):
        theirs = theirs.replace(f"representation_learner.compound_rep_tokens_{name}", renamed)
    return {
        "representation_learner.compound_rep_tokens": "shared_tokens",
        "image_encoder.proj_rep": "projection",
    }.get(theirs, theirs)


def build(variant: Variant) -> Mmrl:
    published = variant.settings
    settings = Mmrl.Settings(
        learning_rate=published["lr"],
        layers=published["REP_LAYERS"],
        tokens=published["N_REP_TOKENS"],
        dim=published["REP_DIM"],
        class_weight=published["ALPHA"],
        regularisation_weight=published["REG_WEIGHT"],
    )
    method = Mmrl(parity.tiny_clip(), variant.classnames, variant.base, published["template"], settings)
    method.load_state_dict(variant.under("param.", ours))
    return method


def check(variant: Variant) -> None:
    """Features, logits, losses and gradients of a batch."""
    method, images, base = build(variant), variant["in.images"], variant.base
    class_token, tokens = method.both_features(images).unbind(dim=1)
    text = method.text_features()
    variant.check_close("raw", "out.image_features_raw", class_token)
    variant.check_close("raw", "out.rep_features_raw", tokens)
    variant.check_close("normalised", "out.image_features", normalize(method.image_features(images), dim=-1))
    variant.check_close("normalised", "out.rep_features", normalize(tokens, dim=-1))
    variant.check_close("normalised", "out.text_features_base", text[:base])
    raw = method.clip.encode_text(method.texts, inserted=method._inserted(method.shared_tokens, method.to_text))
    variant.check_close("raw", "out.text_features_raw_base", raw[:base])
    frozen = normalize(method.clip.encode_images(images), dim=-1)
    variant.check_close("normalised", "out.frozen_image_features", frozen)
    variant.check_close("normalised", "out.frozen_text_features_base", method.frozen_texts()[:base])

    alpha = variant.settings["ALPHA"]
    by_class, by_tokens = method.scores(class_token, text), method.scores(tokens, text)
    logits = {
        "logits_class": by_class,
        "logits_rep": by_tokens,
        "logits_fusion": alpha * by_class + (1 - alpha) * by_tokens,
        "decision": method.logits(images),
    }
    for split, classes in (("base", slice(base)), ("novel", slice(base, None))):
        for name, value in logits.items():
            variant.check_close("logits", f"out.eval_{name}_{split}", value[:, classes])
    variant.check_close("logits", "out.logits_class_train", by_class[:, :base])
    variant.check_close("logits", "out.logits_rep_train", by_tokens[:, :base])

    losses = method.loss(variant.batch())
    terms = {"ce_class": "classification", "ce_rep": "representation", "reg_image": "image", "reg_text": "text"}
    for key, term in {**terms, "total": "total"}.items():
        variant.check_close("loss", f"loss.{key}", losses[term])
    variant.check_gradients(method, losses["total"], ours)
    assert sorted(variant.under("grad.", ours)) == sorted(name for name, _ in method.named_parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_mmrl_parity(name: str) -> None:
    variant = Variant("mmrl", name)
    check(variant)
    parity.check_ids(build(variant).texts.ids, variant["in.tokenized_prompts"])
    variant.check_optimisation(Mmrl.Settings())
    variant.check_trajectory(build(variant), Mmrl.Settings().optimisation, ours, LIMITS)
    variant.check_epoch_rates()


@pytest.mark.parametrize(("sizes", "candidates"), SIZES)
def test_loss_terms(clip: PromptedClip, sizes: tuple[int, int, int], candidates: int) -> None:
    method = build_method("mmrl", clip, DATASET, Mmrl.Settings(class_weight=0.6, regularisation_weight=2))
    images = batch(*sizes)
    losses, text = method.loss(images), method.text_features()[:candidates]
    scores = method.scores(method.image_features(images.images), text)
    torch.testing.assert_close(losses["classification"], cross_entropy(scores, images.labels))
    frozen = build_method("zeroshot", clip, DATASET).text_features()[:candidates]
    torch.testing.assert_close(losses["text"], (1 - (text * frozen).sum(dim=1)).mean())
    expected = 0.6 * losses["classification"] + 0.4 * losses["representation"] + 2 * (losses["image"] + losses["text"])
    torch.testing.assert_close(losses["total"], expected)


def test_base_classes_are_scored_by_both_features(clip: PromptedClip) -> None:
    method, images = build_method("mmrl", clip, Classes(base=[0, 1, 2, 3, 4])), torch.randn(2, 3, 32, 32)
    features = method.both_features(images).unbind(dim=1)
    class_token, tokens = (method.scores(feature, method.text_features()) for feature in features)
    torch.testing.assert_close(method.logits(images), 0.7 * class_token + 0.3 * tokens)


def test_layers(clip: PromptedClip) -> None:
    assert checked_layers(None, 12) == [6, 7, 8, 9, 10, 11, 12]
    assert checked_layers(None, 3) == [3]
    assert checked_layers((1, 3), 3) == [1, 3]
    with pytest.raises(UserError, match=r"methods\.mmrl\.layers contains block 4, but"):
        build_method("mmrl", clip, DATASET, Mmrl.Settings(layers=(2, 3, 4)))


@pytest.mark.parametrize("layers", [(0, 1), (3, 2), (2, 2)])
def test_layers_must_be_in_ascending_order(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascending order"):
        Mmrl.Settings(layers=layers)


def test_maps_of_all_layers_have_the_same_initial_value(clip: PromptedClip) -> None:
    method = build_method("mmrl", clip, DATASET, Mmrl.Settings(layers=(2, 3), tokens=2, dim=8), seed=1)
    first, second = method.to_text
    assert first is not second and torch.equal(first.weight, second.weight)


@pytest.fixture
def with_domains(clip: PromptedClip) -> Mmrl:
    settings = Mmrl.Settings(layers=(2, 3), tokens=3, dim=8, domain_tokens=2, class_weight=0.6)
    method = build_method("mmrl", clip, DATASET, settings)
    assert isinstance(method, Mmrl)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return method


def test_domains_have_separate_tokens(with_domains: Mmrl) -> None:
    images = batch().images[:4]
    mixed = with_domains.both_features(images, torch.tensor([0, 1, 0, 1]))
    real, synthetic = with_domains.both_features(images), with_domains.both_features(images, torch.ones(4))
    torch.testing.assert_close(mixed[::2], real[::2])
    torch.testing.assert_close(mixed[1::2], synthetic[1::2])
    assert not torch.allclose(synthetic, real, atol=1e-3)
    with torch.no_grad():
        with_domains.synthetic_tokens.copy_(with_domains.shared_tokens[:2])
    torch.testing.assert_close(with_domains.both_features(images, torch.ones(4)), real)


def test_loss_with_domains_contains_that_of_syncclip(with_domains: Mmrl) -> None:
    losses = with_domains.loss(batch())
    assert set(losses) == {"real", "synthetic", "alignment", "representation", "image", "text", "total"}
    class_token = 0.6 * (losses["real"] + 0.4 * losses["synthetic"]) + 0.1 * losses["alignment"]
    others = 0.4 * losses["representation"] + 0.5 * (losses["image"] + losses["text"])
    torch.testing.assert_close(losses["total"], class_token + others)
    losses["total"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in with_domains.parameters())


def test_number_of_domain_tokens_is_limited() -> None:
    with pytest.raises(ValueError, match="domain_tokens is 6"):
        Mmrl.Settings(domain_tokens=6)


def test_other_classes_are_scored_by_the_class_token_alone(with_domains: Mmrl) -> None:
    images = batch().images[:4]
    with_domains.known = 0
    scores = with_domains.scores(with_domains.image_features(images), with_domains.text_features())
    torch.testing.assert_close(with_domains.logits(images), scores)
