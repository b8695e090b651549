"""MMRL against its authors' numbers, see `variants.py`, and what its tokens may do."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.mmrl import Mmrl
from syncclip.methods.prompts import checked_layers
from syncclip.training.optimizers import learning_rate
from tests.methods import parity
from tests.methods.classes import DATASET, Classes, batch
from tests.methods.variants import Variant, variants_of

VARIANTS = variants_of("mmrl")


def ours(theirs: str) -> str:
    """Our name of a parameter."""
    for name, mine in (("r2tproj", "to_text"), ("r2vproj", "to_vision")):
        theirs = theirs.replace(f"representation_learner.compound_rep_tokens_{name}", mine)
    return {
        "representation_learner.compound_rep_tokens": "shared_tokens",
        "image_encoder.proj_rep": "projection",
    }.get(theirs, theirs)


def build(variant: Variant) -> Mmrl:
    told = variant.settings
    settings = Mmrl.Settings(
        learning_rate=told["lr"],
        layers=told["REP_LAYERS"],
        tokens=told["N_REP_TOKENS"],
        dim=told["REP_DIM"],
        class_weight=told["ALPHA"],
        regularisation_weight=told["REG_WEIGHT"],
    )
    method = Mmrl(parity.tiny_clip(), variant.classnames, variant.base, told["template"], settings)
    method.load_state_dict(variant.under("param.", ours))
    return method


def check(variant: Variant) -> None:
    """Features, logits, losses and gradients of one batch."""
    method, images, base = build(variant), variant["in.images"], variant.base
    own, others = method.both_features(images).unbind(dim=1)
    text = method.text_features()
    variant.differs("raw", "out.image_features_raw", own)
    variant.differs("raw", "out.rep_features_raw", others)
    variant.differs("normalised", "out.image_features", normalize(method.image_features(images), dim=-1))
    variant.differs("normalised", "out.rep_features", normalize(others, dim=-1))
    variant.differs("normalised", "out.text_features_base", text[:base])
    raw = method.clip.encode_text(method.texts, inserted=method._inserted(method.shared_tokens, method.to_text))
    variant.differs("raw", "out.text_features_raw_base", raw[:base])
    frozen = normalize(method.clip.encode_images(images), dim=-1)
    variant.differs("normalised", "out.frozen_image_features", frozen)
    variant.differs("normalised", "out.frozen_text_features_base", method.frozen_texts()[:base])

    by_class, by_tokens, decided = method.scores(own, text), method.scores(others, text), method.logits(images)
    fused = variant.settings["ALPHA"] * by_class + (1 - variant.settings["ALPHA"]) * by_tokens
    for half, classes in (("base", slice(base)), ("novel", slice(base, None))):
        variant.differs("logits", f"out.eval_logits_class_{half}", by_class[:, classes])
        variant.differs("logits", f"out.eval_logits_rep_{half}", by_tokens[:, classes])
        variant.differs("logits", f"out.eval_logits_fusion_{half}", fused[:, classes])
        variant.differs("logits", f"out.eval_decision_{half}", decided[:, classes])
    variant.differs("logits", "out.logits_class_train", by_class[:, :base])
    variant.differs("logits", "out.logits_rep_train", by_tokens[:, :base])

    losses = method.loss(variant.batch())
    terms = {"ce_class": "classification", "ce_rep": "representation", "reg_image": "image", "reg_text": "text"}
    for theirs, mine in {**terms, "total": "total"}.items():
        variant.differs("loss", f"loss.{theirs}", losses[mine])
    variant.check_gradients(method, losses["total"], ours)
    assert sorted(variant.under("grad.", ours)) == sorted(name for name, _ in method.named_parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_of_features_logits_losses_and_gradients(name: str) -> None:
    check(Variant("mmrl", name))


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_of_the_sentences(name: str) -> None:
    variant = Variant("mmrl", name)
    ids, theirs = build(variant).texts.ids, variant["in.tokenized_prompts"]
    parity.differs("exact", "token ids", ids, theirs[:, : ids.shape[1]])
    assert not theirs[:, ids.shape[1] :].any()


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_of_five_steps(name: str) -> None:
    variant = Variant("mmrl", name)
    variant.check_optimisation(Mmrl.Settings())
    variant.check_course(build(variant), Mmrl.Settings().optimisation, ours, (2.5e-4, 2e-7))


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_of_learning_rates(name: str) -> None:
    variant = Variant("mmrl", name)
    told = variant.settings
    epochs = told["MAX_EPOCH"]
    found = [learning_rate(told["lr"], epoch, epochs, told["WARMUP_EPOCH"]) for epoch in range(epochs)]
    assert found == pytest.approx(variant["schedule.lr"].tolist(), rel=0, abs=1e-12)


@pytest.mark.parametrize("sizes", [(4, 0, 0), (0, 4, 4), (4, 4, 4)])
def test_the_candidates_of_a_batch_are_those_of_every_term(clip: PromptedClip, sizes: tuple[int, int, int]) -> None:
    method = build_method("mmrl", clip, DATASET, Mmrl.Settings(class_weight=0.6, regularisation_weight=2))
    given, candidates = batch(*sizes), 3 if sizes == (4, 0, 0) else 5
    losses, text = method.loss(given), method.text_features()[:candidates]
    own = method.scores(method.image_features(given.images), text)
    torch.testing.assert_close(losses["classification"], cross_entropy(own, given.labels))
    frozen = build_method("zeroshot", clip, DATASET)
    distances = 1 - (text * frozen.text_features()[:candidates]).sum(dim=1)
    torch.testing.assert_close(losses["text"], distances.mean())
    expected = 0.6 * losses["classification"] + 0.4 * losses["representation"] + 2 * (losses["image"] + losses["text"])
    torch.testing.assert_close(losses["total"], expected)


def test_without_novel_classes_all_are_decided_by_both_features(clip: PromptedClip) -> None:
    method, images = build_method("mmrl", clip, Classes(base=[0, 1, 2, 3, 4])), torch.randn(2, 3, 32, 32)
    own, others = (method.scores(one, method.text_features()) for one in method.both_features(images).unbind(dim=1))
    torch.testing.assert_close(method.logits(images), 0.7 * own + 0.3 * others)


def test_the_tokens_enter_the_published_blocks_or_the_last_of_a_short_tower() -> None:
    assert checked_layers(None, 12, 12) == checked_layers(None, 12, 24) == [6, 7, 8, 9, 10, 11, 12]
    assert checked_layers(None, 3, 3) == [3]
    assert checked_layers((1, 3), 3, 4) == [1, 3]


def test_a_block_beyond_a_tower_is_refused_in_one_sentence(clip: PromptedClip) -> None:
    with pytest.raises(UserError, match=r"methods\.mmrl\.layers: there is no block 4"):
        build_method("mmrl", clip, DATASET, Mmrl.Settings(layers=(2, 3, 4)))


@pytest.mark.parametrize("layers", [(0, 1), (3, 2), (2, 2)])
def test_blocks_out_of_order_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ascending order"):
        Mmrl.Settings(layers=layers)


def test_only_tokens_maps_and_projection_are_learned(clip: PromptedClip) -> None:
    method = build_method("mmrl", clip, DATASET, Mmrl.Settings(layers=(2, 3), tokens=2, dim=8), seed=1)
    maps = [f"to_{tower}.{i}.{kind}" for tower in ("text", "vision") for i in range(2) for kind in ("bias", "weight")]
    assert sorted(method.state_dict()) == ["projection", "shared_tokens", *maps]
    first, second = method.to_text
    assert first is not second and torch.equal(first.weight, second.weight)


@pytest.fixture
def domains(clip: PromptedClip) -> Mmrl:
    settings = Mmrl.Settings(layers=(2, 3), tokens=3, dim=8, domain_tokens=2, class_weight=0.6)
    method = build_method("mmrl", clip, DATASET, settings)
    assert isinstance(method, Mmrl)
    chance = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=chance)
    return method


def test_each_domain_has_tokens_of_its_own_beside_the_shared_ones(domains: Mmrl) -> None:
    images = batch().images[:4]
    mixed = domains.both_features(images, torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(mixed[::2], domains.both_features(images)[::2])
    synthetic = domains.both_features(images, torch.ones(4))
    torch.testing.assert_close(mixed[1::2], synthetic[1::2])
    assert not torch.allclose(synthetic, domains.both_features(images), atol=1e-3)
    with torch.no_grad():
        domains.synthetic_tokens.copy_(domains.shared_tokens[:2])
    torch.testing.assert_close(domains.both_features(images, torch.ones(4)), domains.both_features(images))


def test_with_domains_the_losses_are_those_of_syncclip_beside_its_own(domains: Mmrl) -> None:
    losses = domains.loss(batch())
    assert set(losses) == {"real", "synthetic", "alignment", "representation", "image", "text", "total"}
    first = 0.6 * (losses["real"] + 0.4 * losses["synthetic"]) + 0.1 * losses["alignment"]
    others = 0.4 * losses["representation"] + 0.5 * (losses["image"] + losses["text"])
    torch.testing.assert_close(losses["total"], first + others)
    losses["total"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in domains.parameters())


def test_more_tokens_of_a_domain_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="domain_tokens is 6"):
        Mmrl.Settings(domain_tokens=6)


def test_other_classes_than_those_of_the_training_are_decided_by_the_class_token_alone(domains: Mmrl) -> None:
    images = batch().images[:4]
    domains.known = 0
    own = domains.scores(domains.image_features(images), domains.text_features())
    torch.testing.assert_close(domains.logits(images), own)
