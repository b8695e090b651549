"""Nine methods reproduce the numbers of their published code."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from syncclip.methods.kgcoop import KgCoOp
from syncclip.methods.promptsrc import PromptSrc, gaussian_weights
from syncclip.methods.syncclip import SyncClip, alignment, distances
from syncclip.methods.vpt import Vpt
from syncclip.methods.zeroshot import ZeroShot
from syncclip.training.optimizers import learning_rate
from tests.methods import parity
from tests.methods.parity import Batch, Fixture


def coop_variants() -> list[Fixture]:
    """CoOp's file as one fixture per variant: its own tensors and the shared ones."""
    fixtures = []
    for name in parity.names("coop"):
        file = parity.load(name)
        shared = {key: value for key, value in file.tensors.items() if key.split(".")[0] not in file.config}
        for variant, config in file.config.items():
            tensors = {**shared, **file.under(f"{variant}.")}
            fixtures.append(Fixture(f"{name}.{variant}", tensors, {**file.info, "config": config}))
    return fixtures


SYNCCLIP = parity.names("synclip", "synclip_shallow")
PROMPTED = parity.names("ivlp", *SYNCCLIP)
COOP = coop_variants()
CONTEXT = [*COOP, *map(parity.load, parity.names("cocoop", "kgcoop"))]
VISUAL = parity.names("vpt", "maple", "promptsrc")


def named(fixture: Fixture) -> str:
    return fixture.name


def test_zero_shot_parity() -> None:
    fixture = parity.load("zeroshot")
    method = parity.build(fixture)
    parity.check_forward(fixture, method)
    logits = method.logits(fixture["in.images"])
    fixture.check_close("logits", "out.logits", logits)
    fixture.check_close("loss", "loss.ce", cross_entropy(logits, fixture["in.labels"]))
    fixture.check_close("loss", "loss.ce", method.loss(parity.batch_of(fixture))["total"])
    texts = method.clip.texts([method.template.format(name.replace("_", " ")) for name in fixture.classnames])
    fixture.check_close("raw", "out.text_features_raw", method.clip.encode_text(texts))
    parity.check_ids(texts.ids, fixture["in.tokenized_prompts"])


def test_zero_shot_ensemble_parity() -> None:
    fixture = parity.load("zeroshot")
    settings = ZeroShot.Settings(templates=tuple(fixture.config["ensemble_templates"]))
    method = ZeroShot(parity.tiny_clip(), fixture.classnames, fixture.base, "", settings)
    fixture.check_close("normalised", "ensemble.out.text_features", method.text_features())
    fixture.check_close("logits", "ensemble.out.logits", method.logits(fixture["in.images"]))


def test_ivlp_parity() -> None:
    parity.check_text_prompts(parity.load("ivlp"))


@pytest.mark.parametrize("name", PROMPTED)
def test_tokens_and_initial_words_parity(name: str) -> None:
    parity.check_start(parity.load(name))


def check_syncclip(fixture: Fixture) -> None:
    method, batch = parity.build(fixture), parity.batch_of(fixture)
    assert isinstance(method, SyncClip)
    parity.check_forward(fixture, method)
    real, synthetic = fixture["in.images"], fixture["in.syn_images"]
    domains = torch.ones(len(synthetic), dtype=torch.long)
    fixture.check_close("raw", "out.syn_image_features_raw", method.image_features(synthetic, domains))
    logits, synthetic_logits = method.logits(real), method.logits(synthetic, domains)
    fixture.check_close("logits", "out.logits_base", logits[:, : fixture.base])
    fixture.check_close("logits", "out.logits_novel", logits[:, fixture.base :])
    fixture.check_close("logits", "out.logits_open", logits)
    fixture.check_close("logits", "out.logits_syn_seen", synthetic_logits[: len(real)])
    fixture.check_close("logits", "out.logits_syn_unseen", synthetic_logits[len(real) :])
    losses = method.loss(batch)
    for key, term in {"real": "real", "syn": "synthetic", "align": "alignment", "total": "total"}.items():
        fixture.check_close("loss", f"loss.{key}", losses[term])
        prefix = "grad." if key == "total" else f"grad_{key}."
        parity.check_gradients(fixture, prefix, method, losses[term])


@pytest.mark.parametrize("name", SYNCCLIP)
def test_syncclip_parity(name: str) -> None:
    fixture = parity.load(name)
    check_syncclip(fixture)
    method, batch = parity.build(fixture), parity.batch_of(fixture)
    real, seen, novel = method.image_features(batch.images, batch.domains).split(batch.sizes)
    text = method.text_features()
    fixture.check_close("raw", "out.image_features_raw", real)
    fixture.check_close("normalised", "out.syn_image_features", normalize(torch.cat([seen, novel]), dim=-1))
    fixture.check_close("logits", "out.logits_real_train", method.scores(real, text[: fixture.base]))
    fixture.check_close("raw", "out.align_distance", distances(seen, real))
    size = len(real)
    for part, rows in {"seen": slice(size, 2 * size), "unseen": slice(2 * size, None)}.items():
        labels = batch.labels[rows]
        sizes = (0, len(labels), 0) if part == "seen" else (0, 0, len(labels))
        group = Batch(batch.images[rows], labels, batch.domains[rows], sizes)
        fixture.check_close("loss", f"loss.syn_{part}", method.loss(group)["total"])


@pytest.mark.parametrize("case", ["generic", "same", "single", "distinct"])
def test_alignment_parity(case: str) -> None:
    fixture = parity.load("synclip_triplet")
    real = fixture[f"{case}.in.real_features"].clone().requires_grad_()
    synthetic = fixture[f"{case}.in.syn_features"].clone().requires_grad_()
    loss = alignment(real, synthetic, fixture[f"{case}.in.labels"])
    loss.backward()
    assert real.grad is not None and synthetic.grad is not None
    fixture.check_close("raw", f"{case}.out.distance", distances(synthetic, real))
    fixture.check_close("loss", f"{case}.loss.align", loss)
    fixture.check_close("gradient", f"{case}.grad.real_features", real.grad)
    fixture.check_close("gradient", f"{case}.grad.syn_features", synthetic.grad)


@pytest.mark.parametrize("fixture", COOP, ids=named)
def test_coop_parity(fixture: Fixture) -> None:
    parity.check_text_prompts(fixture)


def check_cocoop(fixture: Fixture) -> None:
    method, images = parity.build(fixture), fixture["in.images"]
    raw = method.image_features(images)
    fixture.check_close("raw", "out.image_features_raw", raw)
    fixture.check_close("normalised", "out.image_features", normalize(raw, dim=-1))
    contexts = method.contexts(raw)
    fixture.check_close("raw", "out.text_features_raw", method.clip.encode_text(method.tokens, [contexts[:, None]]))
    text = method.conditional_features(contexts, slice(len(fixture.classnames)))
    fixture.check_close("normalised", "out.text_features", text)
    parity.check_loss(fixture, method)


@pytest.mark.parametrize("name", parity.names("cocoop"))
def test_cocoop_parity(name: str) -> None:
    check_cocoop(parity.load(name))


def check_kgcoop(fixture: Fixture) -> None:
    method, losses = parity.check_text_prompts(fixture)
    assert isinstance(method, KgCoOp)
    fixture.check_close("loss", "loss.ce", losses["classification"])
    fixture.check_close("loss", "loss.kg", losses["knowledge"])
    fixture.check_close("normalised", "out.template_text_features", method.frozen_texts())
    prompts = [fixture.config["template"].format(name.replace("_", " ")) for name in fixture.classnames]
    parity.check_ids(parity.tiny_clip().texts(prompts).ids, fixture["in.tokenized_template"])


@pytest.mark.parametrize("name", parity.names("kgcoop"))
def test_kgcoop_parity(name: str) -> None:
    check_kgcoop(parity.load(name))


def check_context(fixture: Fixture) -> None:
    """Token IDs and initial words; the file has the class names at the end."""
    config = {key: "end" if key == "CLASS_TOKEN_POSITION" else value for key, value in fixture.config.items()}
    parity.check_start(Fixture(fixture.name, fixture.tensors, {**fixture.info, "config": config}))


@pytest.mark.parametrize("fixture", CONTEXT, ids=named)
def test_tokens_and_initial_words_of_a_context_parity(fixture: Fixture) -> None:
    check_context(fixture)


def check_vpt(fixture: Fixture) -> None:
    method = parity.build(fixture)
    assert isinstance(method, Vpt)
    texts = method.clip.texts([method.texts.templates[0].format(name) for name in method.texts.names])
    parity.check_ids(texts.ids, fixture["in.tokenized_prompts"])
    fixture.check_close("raw", "out.text_features_raw", method.clip.encode_text(texts))
    parity.check_forward(fixture, method)
    parity.check_loss(fixture, method)


def check_maple(fixture: Fixture) -> None:
    parity.check_start(fixture)
    parity.check_text_prompts(fixture)


def check_promptsrc(fixture: Fixture) -> None:
    """Features of the frozen CLIP and all loss terms, then a training of several epochs with its average."""
    parity.check_start(fixture)
    method, losses = parity.check_text_prompts(fixture)
    assert isinstance(method, PromptSrc)
    frozen, text = method.clip.encode_images(fixture["in.images"]), method.frozen_texts()
    fixture.check_close("normalised", "out.frozen_text_features", text)
    fixture.check_close("normalised", "out.frozen_image_features", normalize(frozen, dim=-1))
    fixture.check_close("logits", "out.frozen_logits", method.scores(frozen, text))
    terms = {"ce": "classification", "text_l1": "text", "image_l1": "image", "kl": "logits"}
    for key, term in terms.items():
        fixture.check_close("loss", f"loss.{key}", losses[term])

    epochs = int(fixture.config["MAX_EPOCH"])
    rates = [learning_rate(fixture.info["optim"]["lr"], epoch, epochs) for epoch in range(epochs)]
    method, images, labels = parity.build(fixture), fixture["in.images"], fixture["in.labels"]
    optimizer = torch.optim.SGD(method.parameters(), **fixture.info["optim"])
    half, course = len(images) // 2, []
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = rates[epoch]
        for rows in (slice(half), slice(half, None)):
            loss = method.loss(parity.real_batch(images[rows], labels[rows]))["total"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            course.append(loss.detach())
        parity.check_parameters(fixture, f"gpa.epoch{epoch + 1}.", method)
        method.epoch_ended(epoch + 1, epochs)
    fixture.check_close("trajectory", "gpa.loss", torch.stack(course))
    parity.check_parameters(fixture, "gpa.final.", method)
    fixture.check_close("logits", "gpa.logits", method.logits(images))
    weights = gaussian_weights(epochs, fixture.config["GPA_MEAN"], fixture.config["GPA_STD"])
    for key, values in {"gpa.lr": rates, "gpa.weights": weights}.items():
        torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), fixture[key], rtol=1e-12, atol=0)


CHECKS = {"vpt": check_vpt, "maple": check_maple, "promptsrc": check_promptsrc}


@pytest.mark.parametrize("name", VISUAL)
def test_visual_prompts_parity(name: str) -> None:
    CHECKS[name](parity.load(name))


@pytest.mark.parametrize("fixture", [*map(parity.load, [*PROMPTED, *VISUAL]), *CONTEXT], ids=named)
def test_five_steps_of_sgd_parity(fixture: Fixture) -> None:
    parity.check_steps(fixture)


def test_learning_rate_parity() -> None:
    fixture = parity.load("lr_schedule")
    warmup = fixture.info["warmup"]
    for key, reference in fixture.tensors.items():
        base, epochs = key.removeprefix("lr.").split(".epochs")
        rates = [
            learning_rate(float(base), epoch, int(epochs), warmup["epochs"], warmup["lr"])
            for epoch in range(int(epochs))
        ]
        torch.testing.assert_close(torch.tensor(rates, dtype=torch.float64), reference, rtol=1e-12, atol=0)
