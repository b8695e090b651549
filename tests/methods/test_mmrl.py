"""MMRL against its authors' numbers, see `variants.py`, and what its tokens may do."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.mmrl import Mmrl
from syncclip.training.optimizers import learning_rate
from tests.methods import parity
from tests.methods.classes import DATASET, batch
from tests.methods.variants import Variant

VARIANTS = ("main", "one")


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
    raw = method.clip.encode_text(method.texts, inserted=method._tokens(method.to_text))
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
