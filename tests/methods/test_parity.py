"""Our numbers are those of the methods' published code."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from syncclip.methods.syncclip import alignment, distances
from syncclip.methods.zeroshot import ZeroShot
from syncclip.training.optimizers import learning_rate
from tests.methods import parity, text_methods, vision_methods

SYNCCLIP = parity.names("synclip", "synclip_shallow")
PROMPTED = parity.names("ivlp", "synclip", "synclip_shallow")
COOP = text_methods.coop_variants()
CONTEXT = [*COOP, *(parity.load(name) for name in parity.names("cocoop", "kgcoop"))]
VISUAL = parity.names("vpt", "maple", "promptsrc")


def test_zero_shot_parity() -> None:
    fixture = parity.load("zeroshot")
    method = parity.build(fixture)
    parity.check_forward(fixture, method)
    logits = method.logits(fixture["in.images"])
    fixture.differs("logits", "out.logits", logits)
    fixture.differs("loss", "loss.ce", cross_entropy(logits, fixture["in.labels"]))
    fixture.differs("loss", "loss.ce", method.loss(parity.batch_of(fixture))["total"])
    texts = method.clip.texts([method.template.format(n.replace("_", " ")) for n in fixture.classnames])
    fixture.differs("raw", "out.text_features_raw", method.clip.encode_text(texts))
    parity.check_tokens(fixture, texts.ids)


def test_zero_shot_ensemble_parity() -> None:
    fixture = parity.load("zeroshot")
    settings = ZeroShot.Settings(templates=tuple(fixture.config["ensemble_templates"]))
    method = ZeroShot(parity.tiny_clip(), fixture.classnames, fixture.base, "", settings)
    fixture.differs("normalised", "ensemble.out.text_features", method.text_features())
    fixture.differs("logits", "ensemble.out.logits", method.logits(fixture["in.images"]))


def test_ivlp_parity() -> None:
    parity.check_text_prompts(parity.load("ivlp"))


@pytest.mark.parametrize("name", PROMPTED)
def test_texts_and_first_words_parity(name: str) -> None:
    parity.check_start(parity.load(name))


@pytest.mark.parametrize("name", SYNCCLIP)
def test_syncclip_parity(name: str) -> None:
    parity.check_syncclip(parity.load(name))


@pytest.mark.parametrize("name", SYNCCLIP)
def test_syncclip_parity_of_what_enters_the_losses(name: str) -> None:
    fixture = parity.load(name)
    method, batch = parity.build(fixture), parity.batch_of(fixture)
    real, seen, novel = method.image_features(batch.images, batch.domains).split(batch.sizes)
    text = method.text_features()
    fixture.differs("raw", "out.image_features_raw", real)
    fixture.differs("raw", "out.syn_image_features_raw", torch.cat([seen, novel]))
    fixture.differs("normalised", "out.syn_image_features", normalize(torch.cat([seen, novel]), dim=-1))
    fixture.differs("logits", "out.logits_real_train", method.scores(real, text[: fixture.base]))
    fixture.differs("raw", "out.align_distance", distances(seen, real))
    size = len(real)
    for part, rows in {"seen": slice(size, 2 * size), "unseen": slice(2 * size, None)}.items():
        labels = batch.labels[rows]
        sizes = (0, len(labels), 0) if part == "seen" else (0, 0, len(labels))
        half = parity.Batch(batch.images[rows], labels, batch.domains[rows], sizes)
        fixture.differs("loss", f"loss.syn_{part}", method.loss(half)["total"])


@pytest.mark.parametrize("fixture", COOP, ids=lambda fixture: fixture.name)
def test_coop_parity(fixture: parity.Fixture) -> None:
    text_methods.check_coop(fixture)


@pytest.mark.parametrize("name", parity.names("cocoop"))
def test_cocoop_parity(name: str) -> None:
    text_methods.check_cocoop(parity.load(name))


@pytest.mark.parametrize("name", parity.names("kgcoop"))
def test_kgcoop_parity(name: str) -> None:
    text_methods.check_kgcoop(parity.load(name))
    text_methods.check_template(parity.load(name))


@pytest.mark.parametrize("fixture", CONTEXT, ids=lambda fixture: fixture.name)
def test_texts_and_initial_words_of_a_context_parity(fixture: parity.Fixture) -> None:
    text_methods.check_start(fixture)


@pytest.mark.parametrize("name", VISUAL)
def test_visual_prompts_parity(name: str) -> None:
    vision_methods.CHECKS[name](parity.load(name))


@pytest.mark.parametrize("fixture", [*map(parity.load, [*PROMPTED, *VISUAL]), *CONTEXT], ids=lambda each: each.name)
def test_five_steps_of_sgd_parity(fixture: parity.Fixture) -> None:
    parity.check_steps(fixture)


@pytest.mark.parametrize("case", ["generic", "same", "single", "distinct"])
def test_alignment_parity(case: str) -> None:
    fixture = parity.load("synclip_triplet")
    real = fixture[f"{case}.in.real_features"].clone().requires_grad_()
    synthetic = fixture[f"{case}.in.syn_features"].clone().requires_grad_()
    loss = alignment(real, synthetic, fixture[f"{case}.in.labels"])
    loss.backward()
    assert real.grad is not None and synthetic.grad is not None
    fixture.differs("raw", f"{case}.out.distance", distances(synthetic, real))
    fixture.differs("loss", f"{case}.loss.align", loss)
    fixture.differs("gradient", f"{case}.grad.real_features", real.grad)
    fixture.differs("gradient", f"{case}.grad.syn_features", synthetic.grad)


def test_learning_rate_parity() -> None:
    fixture = parity.load("lr_schedule")
    warmup = fixture.info["warmup"]
    for key, rates in fixture.tensors.items():
        base, epochs = key.removeprefix("lr.").split(".epochs")
        ours = [
            learning_rate(float(base), epoch, int(epochs), warmup["epochs"], warmup["lr"])
            for epoch in range(int(epochs))
        ]
        torch.testing.assert_close(torch.tensor(ours, dtype=torch.float64), rates, rtol=1e-12, atol=0)
