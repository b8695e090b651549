"""Tip-Adapter, trained and not: against its published code, and what it promises."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from syncclip.clip.prompt_text import fill, readable_name
from syncclip.clip.prompted import PromptedClip
from syncclip.methods import build_method
from syncclip.methods.tip import Tip, search
from syncclip.training.optimizers import rate_at
from syncclip.training.settings import TrainingSettings
from tests.methods import parity
from tests.methods.classes import DATASET, batch
from tests.methods.variants import Rename, Variant, variants_of

VARIANTS = variants_of("tip")
LIMITS = 1e-5, 1e-6
"""On the largest and on the median difference of the keys after some steps."""


class TipVariant(Variant):
    """Rows of keys are put where our cache has them: image i of a class in its slot i.

    A batch is a part of the first view, mostly a half, and the next time the next one.
    """

    def __init__(self, variant: str) -> None:
        super().__init__("tip", variant)
        self.views = [shown(images, self["in.cache_labels"]) for images in self["in.cache_images"]]
        parts = (each.chunk(self.settings["batches_per_epoch"]) for each in self.views[0][:2])
        self._turn = itertools.cycle([shown(*part) for part in zip(*parts, strict=True)])

    def under(self, prefix: str, ours: Rename = str) -> dict[str, Tensor]:
        return {name: self.in_slots(rows) for name, rows in super().under(prefix, ours).items()}

    def in_slots(self, rows: Tensor) -> Tensor:
        """(C, slots, D) of (images, D)."""
        labels = self["in.cache_labels"]
        slots = rows.new_zeros(len(self.classnames), self.settings["shots"], rows.shape[1])
        for label in range(len(self.classnames)):
            of_class = rows[labels == label]
            slots[label, : len(of_class)] = of_class
        return slots

    def batch(self) -> parity.Batch:
        return next(self._turn)


def shown(images: Tensor, labels: Tensor) -> parity.Batch:
    return parity.Batch(images, labels, torch.zeros_like(labels), (len(images), 0, 0))


def ours(theirs: str) -> str:
    assert theirs == "adapter.weight"
    return "keys"


def build(found: TipVariant) -> Tip:
    """The method of a variant with the images in its cache."""
    told = found.settings
    settings = Tip.Settings(
        alpha=told["init_alpha"],
        beta=told["init_beta"],
        cache_size=told["shots"],
        views=told["augment_epoch"],
        templates=tuple(told["templates"]),
        learning_rate=told["lr"],
    )
    method = Tip(parity.tiny_clip(), found.classnames, found.base, "", settings)
    assert method.prepares == len(found.views)
    method.prepare([view] for view in found.views)
    return method


def check_cache(name: str) -> None:
    """Features, the keys and their scores, and the search of alpha and beta."""
    found = TipVariant(name)
    method, told = build(found), found.settings
    found.differs("normalised", "out.text_features_base", method.text_features())
    features = method.image_features(found["in.images"])
    found.differs("raw", "out.image_features_raw", features)
    found.differs("normalised", "out.image_features", normalize(features, dim=-1))
    keys = found.in_slots(found["out.cache_keys"])
    parity.differs("normalised", f"{found.name}: out.cache_keys", method.keys, keys)
    assert torch.equal(one_hot(found["in.cache_labels"], len(found.classnames)).float(), found["out.cache_values"])
    found.differs("logits", "out.logits_clip", super(Tip, method).scores(features, method.text_features()))
    found.differs("logits", "out.logits", method.logits(found["in.images"]))

    scale, steps = tuple(told["search_scale"]), tuple(told["search_step"])
    best = search(method, found["in.val_features"], found["in.val_labels"], scale, steps)
    for key, value in {"best_alpha": best.alpha, "best_beta": best.beta, "acc_grid": best.accuracy}.items():
        gap = (torch.as_tensor(value, dtype=torch.float64) - found[f"search.{key}"]).abs().max()
        assert gap < 1e-9, f"search.{key} differs by {gap}"
    method.alpha, method.beta = best.alpha, best.beta
    found.differs("logits", "out.logits_searched", method.logits(found["in.images"]))


def check_finetuning(name: str) -> None:
    """Logits, loss and gradient of the first half, five steps, and the whole schedule."""
    found = TipVariant(name)
    asked = build(found).settings.optimisation

    def build_at_start() -> Tip:
        method = build(found)
        method.load_state_dict(found.under("param.", ours))
        return method

    method, first = build_at_start(), found.batch()
    scores = method.scores(method.image_features(first.images), method.text_features())
    found.differs("logits", "out.logits_train_f", scores)
    loss = method.loss(first)["total"]
    found.loss_differs("loss.total", loss)
    found.check_gradients(method, loss, ours)
    TipVariant(name).check_course(build_at_start(), asked, ours, LIMITS)
    TipVariant(name).check_course(build_at_start(), asked, ours, LIMITS, found["schedule.lr"], "schedule.")


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_of_features_keys_logits_and_search(name: str) -> None:
    check_cache(name)


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_of_finetuning(name: str) -> None:
    check_finetuning(name)


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_of_tokens_rates_and_optimiser(name: str) -> None:
    found, settings = TipVariant(name), Tip.Settings()
    told = found.settings
    for number, template in enumerate(told["templates"]):
        ids = parity.tiny_clip().texts(fill(template, map(readable_name, found.classnames))).ids
        theirs = found["in.tokenized_prompts"][:, number]
        assert torch.equal(ids, theirs[:, : ids.shape[1]]) and not theirs[:, ids.shape[1] :].any()
    found.check_optimisation(settings)
    for key in ("schedule.lr", "traj.lr"):
        for step, rate in enumerate(found[key].tolist()):
            epochs = TrainingSettings(epochs=told["train_epoch"])
            ours = rate_at(told["lr"], step, told["batches_per_epoch"], epochs, settings.optimisation)
            assert ours == pytest.approx(rate, abs=1e-12)


def filled(clip: PromptedClip, **settings: object) -> Tip:
    method = build_method("tip", clip, DATASET, Tip.Settings(cache_size=2, views=1, **settings))
    assert isinstance(method, Tip)
    method.prepare([[batch(4, 0, 0)]])
    return method


def test_novel_classes_without_images_have_their_zero_shot_scores(clip: PromptedClip) -> None:
    method, images = filled(clip), batch().images
    plain = build_method("zeroshot", clip, DATASET).logits(images)
    found = method.logits(images)
    torch.testing.assert_close(found[:, 3:], plain[:, 3:])
    assert bool((found[:, :3] > plain[:, :3] + 1e-3).all())


def test_empty_slots_stay_empty_and_full_ones_are_learned(clip: PromptedClip) -> None:
    method = filled(clip)  # of the first class two images, of the next two one each
    start = method.keys.detach().clone()
    assert (start != 0).any(dim=-1).tolist() == [[True, True], [True, False], [True, False], [False] * 2, [False] * 2]
    asked = method.settings.optimisation
    assert asked is not None
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.01, eps=asked.eps, weight_decay=asked.weight_decay)
    for _ in range(3):
        optimizer.zero_grad()
        method.loss(batch())["total"].backward()
        optimizer.step()
    assert torch.equal((method.keys != start).any(dim=-1), (start != 0).any(dim=-1))


def test_a_key_is_the_direction_of_the_mean_over_views_and_over_images_of_its_slot(clip: PromptedClip) -> None:
    labels = torch.tensor([1, 0, 1, 1, 1])
    views = torch.randn(2, 5, 3, 32, 32)
    method = build_method("tip", clip, DATASET, Tip.Settings(cache_size=3, views=2))
    method.prepare([[shown(view[:2], labels[:2]), shown(view[2:], labels[2:])] for view in views])
    mean = torch.stack([clip.encode_images(view) for view in views]).mean(dim=0)
    expected = torch.zeros(5, 3, mean.shape[1])
    expected[0, 0], expected[1, 0] = mean[1], (mean[0] + mean[4]) / 2  # the fourth image of three slots
    expected[1, 1], expected[1, 2] = mean[2], mean[3]
    torch.testing.assert_close(method.keys.detach(), normalize(expected, dim=-1))


def test_an_image_that_is_shown_again_is_not_cached_again(clip: PromptedClip) -> None:
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, -1])
    method = build_method("tip", clip, DATASET, Tip.Settings(cache_size=2))
    method.prepare([[shown(images, labels)]])
    assert (method.keys != 0).any(dim=-1).sum(dim=1).tolist() == [1, 1, 0, 0, 0]
