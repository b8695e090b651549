"""Tip-Adapter: parity with the published code, and its cache."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from syncclip.clip.prompt_text import fill
from syncclip.clip.prompted import PromptedClip
from syncclip.core.text import readable_name
from syncclip.methods import build_method
from syncclip.methods.tip import Tip, search
from syncclip.training.optimizers import rate_at
from syncclip.training.settings import TrainingSettings
from tests.methods import parity
from tests.methods.classes import DATASET, batch
from tests.methods.parity import real_batch
from tests.methods.variants import Rename, Variant, variants_of

LIMITS = 1e-5, 1e-6


class TipVariant(Variant):
    """A variant whose keys are in slots: image i of a class in slot i. Batches are consecutive parts of a view."""

    def __init__(self, variant: str) -> None:
        super().__init__("tip", variant)
        self.views = [real_batch(images, self["in.cache_labels"]) for images in self["in.cache_images"]]
        parts = (rows.chunk(self.settings["batches_per_epoch"]) for rows in self.views[0][:2])
        self._batches = itertools.cycle([real_batch(*part) for part in zip(*parts, strict=True)])

    def under(self, prefix: str, ours: Rename = str) -> dict[str, Tensor]:
        return {name: self.in_slots(rows) for name, rows in super().under(prefix, ours).items()}

    def in_slots(self, rows: Tensor) -> Tensor:
        """(C, slots, D) keys from (images, D)."""
        labels = self["in.cache_labels"]
        slots = rows.new_zeros(len(self.classnames), self.settings["shots"], rows.shape[1])
        for label in range(len(self.classnames)):
            of_class = rows[labels == label]
            slots[label, : len(of_class)] = of_class
        return slots

    def batch(self) -> parity.Batch:
        return next(self._batches)


def ours(theirs: str) -> str:
    assert theirs == "adapter.weight"
    return "keys"


def build(variant: TipVariant) -> Tip:
    """The method with the images of a variant in its cache."""
    published = variant.settings
    settings = Tip.Settings(
        alpha=published["init_alpha"],
        beta=published["init_beta"],
        cache_size=published["shots"],
        views=published["augment_epoch"],
        templates=tuple(published["templates"]),
        learning_rate=published["lr"],
    )
    method = Tip(parity.tiny_clip(), variant.classnames, variant.base, "", settings)
    assert method.prepares == len(variant.views)
    method.prepare([view] for view in variant.views)
    return method


def check_cache(variant: TipVariant) -> None:
    """Features, keys, scores, and the search of alpha and beta."""
    method, published = build(variant), variant.settings
    variant.check_close("normalised", "out.text_features_base", method.text_features())
    features = method.image_features(variant["in.images"])
    variant.check_close("raw", "out.image_features_raw", features)
    variant.check_close("normalised", "out.image_features", normalize(features, dim=-1))
    parity.check_close("normalised", f"{variant.name}: keys", method.keys, variant.in_slots(variant["out.cache_keys"]))
    values = one_hot(variant["in.cache_labels"], len(variant.classnames)).float()
    assert torch.equal(values, variant["out.cache_values"])
    variant.check_close("logits", "out.logits_clip", super(Tip, method).scores(features, method.text_features()))
    variant.check_close("logits", "out.logits", method.logits(variant["in.images"]))

    scale, steps = tuple(published["search_scale"]), tuple(published["search_step"])
    best = search(method, variant["in.val_features"], variant["in.val_labels"], scale, steps)
    for key, value in {"best_alpha": best.alpha, "best_beta": best.beta, "acc_grid": best.accuracy}.items():
        gap = (torch.as_tensor(value, dtype=torch.float64) - variant[f"search.{key}"]).abs().max()
        assert gap < 1e-9, f"search.{key} differs by {gap}"
    method.alpha, method.beta = best.alpha, best.beta
    variant.check_close("logits", "out.logits_searched", method.logits(variant["in.images"]))


def check_finetuning(name: str) -> None:
    """Logits, loss and gradient of the first batch, five steps, and the complete schedule."""
    variant = TipVariant(name)

    def build_at_start() -> Tip:
        method = build(variant)
        method.load_state_dict(variant.under("param.", ours))
        return method

    method, first, own = build_at_start(), variant.batch(), build(variant).settings.optimisation
    scores = method.scores(method.image_features(first.images), method.text_features())
    variant.check_close("logits", "out.logits_train_f", scores)
    loss = method.loss(first)["total"]
    variant.loss_differs("loss.total", loss)
    variant.check_gradients(method, loss, ours)
    TipVariant(name).check_trajectory(build_at_start(), own, ours, LIMITS)
    TipVariant(name).check_trajectory(build_at_start(), own, ours, LIMITS, variant["schedule.lr"], "schedule.")


@pytest.mark.parametrize("name", variants_of("tip"))
def test_tip_parity(name: str) -> None:
    check_cache(TipVariant(name))
    check_finetuning(name)


@pytest.mark.parametrize("name", variants_of("tip"))
def test_tokens_rates_and_optimiser_parity(name: str) -> None:
    variant, settings = TipVariant(name), Tip.Settings()
    published = variant.settings
    for number, template in enumerate(published["templates"]):
        ids = parity.tiny_clip().texts(fill(template, map(readable_name, variant.classnames))).ids
        parity.check_ids(ids, variant["in.tokenized_prompts"][:, number])
    variant.check_optimisation(settings)
    training = TrainingSettings(epochs=published["train_epoch"])
    for key in ("schedule.lr", "traj.lr"):
        for step, reference in enumerate(variant[key].tolist()):
            rate = rate_at(published["lr"], step, published["batches_per_epoch"], training, settings.optimisation)
            assert rate == pytest.approx(reference, abs=1e-12)


def filled(clip: PromptedClip) -> Tip:
    """A cache of four images: two of the first class, one of each other base class."""
    method = build_method("tip", clip, DATASET, Tip.Settings(cache_size=2, views=1))
    assert isinstance(method, Tip)
    method.prepare([[batch(4, 0, 0)]])
    return method


def test_classes_without_images_have_zero_shot_scores(clip: PromptedClip) -> None:
    images = batch().images
    zero_shot, logits = build_method("zeroshot", clip, DATASET).logits(images), filled(clip).logits(images)
    torch.testing.assert_close(logits[:, 3:], zero_shot[:, 3:])
    assert bool((logits[:, :3] > zero_shot[:, :3] + 1e-3).all())


def test_empty_slots_stay_empty(clip: PromptedClip) -> None:
    method = filled(clip)
    start = method.keys.detach().clone()
    assert (start != 0).any(dim=-1).tolist() == [[True, True], [True, False], [True, False], [False] * 2, [False] * 2]
    own = method.settings.optimisation
    assert own is not None
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01, eps=own.eps, weight_decay=own.weight_decay)
    for _ in range(3):
        optimizer.zero_grad()
        method.loss(batch())["total"].backward()
        optimizer.step()
    assert torch.equal((method.keys != start).any(dim=-1), (start != 0).any(dim=-1))


def test_key_is_the_normalised_mean_over_views_and_images_of_a_slot(clip: PromptedClip) -> None:
    labels = torch.tensor([1, 0, 1, 1, 1])
    views = torch.randn(2, 5, 3, 32, 32)
    method = build_method("tip", clip, DATASET, Tip.Settings(cache_size=3, views=2))
    method.prepare([[real_batch(view[:2], labels[:2]), real_batch(view[2:], labels[2:])] for view in views])
    mean = torch.stack([clip.encode_images(view) for view in views]).mean(dim=0)
    expected = torch.zeros(5, 3, mean.shape[1])
    expected[0, 0], expected[1, 0] = mean[1], (mean[0] + mean[4]) / 2  # the fourth image shares the first of 3 slots
    expected[1, 1], expected[1, 2] = mean[2], mean[3]
    torch.testing.assert_close(method.keys.detach(), normalize(expected, dim=-1))


def test_padding_is_not_cached(clip: PromptedClip) -> None:
    method = build_method("tip", clip, DATASET, Tip.Settings(cache_size=2))
    method.prepare([[real_batch(torch.randn(3, 3, 32, 32), torch.tensor([0, 1, -1]))]])
    assert (method.keys != 0).any(dim=-1).sum(dim=1).tolist() == [1, 1, 0, 0, 0]
