"""Linear probe: parity with the published code, and its initial vectors."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from syncclip.clip.prompt_text import fill
from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.probe import Probe
from tests.methods import parity
from tests.methods.classes import DATASET, batch
from tests.methods.variants import Variant, variants_of

LIMITS = 5e-6, 1e-6


def ours(theirs: str) -> str:
    assert theirs == "adapter.prototypes"
    return "vectors"


def names(variant: Variant) -> list[str]:
    """Class names whose underscores are kept, as in the published code: as HTML entities."""
    return [name.replace("_", "&#95;") for name in variant.classnames]


def build(variant: Variant, published_vectors: bool = True) -> Probe:
    published = variant.settings
    assert published["INIT"] == "ZS"
    settings = Probe.Settings(constraint={"none": False, "l2": True}[published["CONSTRAINT"]])
    method = Probe(parity.tiny_clip(), names(variant), variant.base, published["template"], settings)
    method.step_begins(0, 1)
    if published_vectors:
        method.load_state_dict(variant.under("param.", ours))
    return method


def check(variant: Variant) -> None:
    """Initial vectors, features, logits, losses and gradients of a batch, and five steps."""
    initial, method = build(variant, published_vectors=False), build(variant)
    variant.check_close("raw", "init.adapter.prototypes", initial.vectors)
    variant.check_close("logits", "out.logits_zeroshot", initial.logits(variant["in.images"]))
    variant.check_close("raw", "out.image_features_raw", method.image_features(variant["in.images"]))
    variant.check_close("logits", "out.logits_train", method.logits(variant["in.images"]))
    if method.prepares:
        method.prepare([[variant.batch()]])
        variant.check_close("normalised", "out.multipliers", method.multipliers)
    losses = method.loss(variant.batch())
    for term in losses.keys() - {"classification"}:
        variant.loss_differs(f"loss.{term}", losses[term])
    variant.loss_differs("loss.ce", losses["classification"])
    variant.check_gradients(method, losses["total"], ours)
    variant.check_trajectory(method, method.settings.optimisation, ours, LIMITS)


@pytest.mark.parametrize("name", variants_of("clap"))
def test_probe_parity(name: str) -> None:
    variant = Variant("clap", name)
    check(variant)
    ids = parity.tiny_clip().texts(fill(variant.settings["template"], names(variant))).ids
    parity.check_ids(ids, variant["in.tokenized_prompts"])
    variant.check_optimisation(Probe.Settings())


def test_vectors_are_initialised_in_the_first_step(clip: PromptedClip) -> None:
    method = build_method("probe", clip, DATASET)
    zeroshot, images = build_method("zeroshot", clip, DATASET), batch().images
    torch.testing.assert_close(method.logits(images), zeroshot.logits(images))
    assert not method.vectors.any()
    method.step_begins(0, 9)
    assert torch.equal(method.vectors.detach(), method.start())
    learned = method.vectors.detach() + 1
    with torch.no_grad():
        method.vectors.copy_(learned)
    method.step_begins(1, 9)
    assert torch.equal(method.vectors, learned)


def test_initial_vector_is_the_mean_of_raw_features(clip: PromptedClip) -> None:
    templates = ("a photo of a {}.", "the {}")
    method = build_method("probe", clip, DATASET, Probe.Settings(templates=templates))
    method.step_begins(0, 1)
    first, second = (clip.encode_text(clip.texts(fill(template, DATASET.classnames))) for template in templates)
    torch.testing.assert_close(method.vectors.detach(), (first + second) / 2)


def test_vectors_of_classes_without_images_do_not_change(clip: PromptedClip) -> None:
    method = build_method("probe", clip, DATASET)
    method.step_begins(0, 1)
    start, optimizer = method.vectors.detach().clone(), torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        method.loss(batch(4, 0, 0))["total"].backward()
        optimizer.step()
    assert (method.vectors != start).any(dim=1).tolist() == [True, True, True, False, False]


def test_scores_do_not_depend_on_the_length_of_vectors(clip: PromptedClip) -> None:
    method, images = build_method("probe", clip, DATASET).eval(), batch().images
    method.step_begins(0, 1)
    with torch.no_grad():
        before = method.logits(images)
        method.vectors *= torch.tensor([[1.0], [3.0], [0.5], [2.0], [9.0]])
        torch.testing.assert_close(method.logits(images), before)
    torch.testing.assert_close(method.text_features(), normalize(method.vectors, dim=-1))
