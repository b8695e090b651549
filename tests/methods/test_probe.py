"""The linear probe: against its published code, and what it promises."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from syncclip.clip.prompt_text import fill
from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.probe import Probe
from tests.methods import parity
from tests.methods.classes import DATASET, batch
from tests.methods.variants import Variant, variants_of

VARIANTS = variants_of("clap")
LIMITS = 5e-6, 1e-6
"""On the largest and on the median difference of the vectors after five steps."""


def ours(theirs: str) -> str:
    assert theirs == "adapter.prototypes"
    return "vectors"


def names(found: Variant) -> list[str]:
    """Class names that are read as the published code reads its own, with their underscores: in HTML's words."""
    return [name.replace("_", "&#95;") for name in found.classnames]


def build(found: Variant, start: bool = False) -> Probe:
    """The method of a variant with the file's vectors, or with its own start."""
    told = found.settings
    assert told["INIT"] == "ZS"
    settings = Probe.Settings(constraint={"none": False, "l2": True}[told["CONSTRAINT"]])
    method = Probe(parity.tiny_clip(), names(found), found.base, told["template"], settings)
    method.step_begins(0, 1)
    if not start:
        method.load_state_dict(found.under("param.", ours))
    return method


def check(name: str) -> None:
    """Start, features, logits, losses, gradients and five steps of one batch."""
    found = Variant("clap", name)
    start, method = build(found, start=True), build(found)
    found.differs("raw", "init.adapter.prototypes", start.vectors)
    found.differs("logits", "out.logits_zeroshot", start.logits(found["in.images"]))
    found.differs("raw", "out.image_features_raw", method.image_features(found["in.images"]))
    found.differs("logits", "out.logits_train", method.logits(found["in.images"]))
    if method.prepares:
        method.prepare([[found.batch()]])
        found.differs("normalised", "out.multipliers", method.multipliers)
    losses = method.loss(found.batch())
    for term in losses.keys() - {"classification"}:
        found.loss_differs(f"loss.{term}", losses[term])
    found.loss_differs("loss.ce", losses["classification"])
    found.check_gradients(method, losses["total"], ours)
    found.check_course(method, method.settings.optimisation, ours, LIMITS)


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_of_start_features_logits_losses_gradients_and_steps(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_of_tokens_and_optimiser(name: str) -> None:
    found = Variant("clap", name)
    ids = parity.tiny_clip().texts(fill(found.settings["template"], names(found))).ids
    theirs = found["in.tokenized_prompts"]
    assert torch.equal(ids, theirs[:, : ids.shape[1]]) and not theirs[:, ids.shape[1] :].any()
    found.check_optimisation(Probe.Settings())


def test_it_starts_as_the_zero_shot_classifier(clip: PromptedClip) -> None:
    images = batch().images
    expected = build_method("zeroshot", clip, DATASET).logits(images)
    torch.testing.assert_close(build_method("probe", clip, DATASET).logits(images), expected)


def test_its_start_is_found_where_and_when_the_training_begins(clip: PromptedClip) -> None:
    method = build_method("probe", clip, DATASET)
    assert not method.vectors.any()
    before = method.text_features()
    method.step_begins(0, 9)
    torch.testing.assert_close(method.vectors.detach(), method.start(), rtol=0, atol=0)
    torch.testing.assert_close(method.text_features().detach(), before)
    learned = method.vectors.detach() + 1
    with torch.no_grad():
        method.vectors.copy_(learned)
    method.step_begins(1, 9)
    assert torch.equal(method.vectors, learned)


def test_it_starts_as_the_mean_of_several_sentences_each_at_its_own_length(clip: PromptedClip) -> None:
    templates = ("a photo of a {}.", "the {}")
    method = build_method("probe", clip, DATASET, Probe.Settings(templates=templates))
    method.step_begins(0, 1)
    found = method.vectors
    each = [clip.encode_text(clip.texts(fill(template, DATASET.classnames))) for template in templates]
    torch.testing.assert_close(found.detach(), (each[0] + each[1]) / 2)


def test_classes_without_images_keep_their_start_to_the_bit(clip: PromptedClip) -> None:
    method = build_method("probe", clip, DATASET)
    method.step_begins(0, 1)
    start, optimizer = method.vectors.detach().clone(), torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        method.loss(batch(4, 0, 0))["total"].backward()
        optimizer.step()
    changed = (method.vectors != start).any(dim=1)
    assert changed.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(("sizes", "candidates"), [((4, 0, 0), 3), ((0, 4, 4), 5), ((4, 4, 4), 5)])
def test_the_loss_is_one_cross_entropy_among_the_candidates(
    clip: PromptedClip, sizes: tuple[int, int, int], candidates: int
) -> None:
    method, images = build_method("probe", clip, DATASET), batch(*sizes)
    expected = cross_entropy(method.logits(images.images)[:, :candidates], images.labels)
    losses = method.loss(images)
    assert losses.keys() == {"classification", "total"}
    torch.testing.assert_close(losses["total"], expected)


def test_a_vectors_length_changes_no_score(clip: PromptedClip) -> None:
    method, images = build_method("probe", clip, DATASET).eval(), batch().images
    method.step_begins(0, 1)
    with torch.no_grad():
        before = method.logits(images)
        method.vectors *= torch.tensor([[1.0], [3.0], [0.5], [2.0], [9.0]])
        torch.testing.assert_close(method.logits(images), before)
    torch.testing.assert_close(method.text_features(), normalize(method.vectors, dim=-1))
