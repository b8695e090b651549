"""2SFS: parity with the published code in both stages and at test time."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from syncclip.clip.prompted import PromptedClip
from syncclip.core.settings import UserError
from syncclip.methods import build_method
from syncclip.methods.twostage import TwoStage
from syncclip.training.optimizers import rate_at
from syncclip.training.settings import TrainingSettings
from tests.methods import parity
from tests.methods.classes import DATASET, batch
from tests.methods.variants import Variant, variants_of

LIMITS = (5e-5, 2e-7)
_THEIRS = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(ln_[12])\.(weight|bias)")


def ours(theirs: str) -> str:
    """Our name of a parameter."""
    if theirs == "classifier":
        return theirs
    match = _THEIRS.fullmatch(theirs)
    assert match is not None, theirs
    tower, block, norm, kind = match.groups()
    return f"{'vision' if tower else 'text'}_parts.{block}.{kind}.{norm}"


def build(variant: Variant, prefix: str = "param.", classifier: Tensor | None = None) -> TwoStage:
    published = variant.settings
    settings = TwoStage.Settings(
        first_stage=published["n_iters_frac"],
        towers=published["ln_modality"],
        first_visual_block=published["ln_vision_start"] + 1,
        first_text_block=published["ln_text_start"] + 1,
    )
    method = TwoStage(parity.tiny_clip(), variant.classnames, variant.base, published["template"], settings)
    vectors = torch.zeros_like(method.classifier)
    if classifier is not None:
        vectors[: variant.base] = classifier
    method.load_state_dict({"classifier": vectors, **variant.under(prefix, ours)})
    return method


def check_first_stage(variant: Variant) -> None:
    """Features, logits, loss and gradients; five steps, and the complete stage."""
    method, images, base = build(variant), variant["in.images"], variant.base
    method.step_begins(0, variant.settings["total_iters"])
    raw = method.image_features(images)
    variant.check_close("raw", "out.image_features_raw", raw)
    variant.check_close("normalised", "out.image_features", normalize(raw, dim=-1))
    variant.check_close("normalised", "out.text_features_base", method.text_features(slice(base)))
    variant.check_close("logits", "out.logits_train", method.logits(images)[:, :base])
    loss = method.loss(variant.batch())["total"]
    variant.check_close("loss", "loss.total", loss)
    variant.check_gradients(method, loss, ours)
    own, rates = method.settings.optimisation, variant["schedule.lr1"]
    variant.check_trajectory(method, own, ours, LIMITS, rates[:5])
    variant.tensors |= {f"end.param.{name}": end for name, end in variant.under("stage1.param.").items()}
    variant.tensors["end.loss"] = variant["schedule.loss1"]
    variant.check_trajectory(build(variant), own, ours, LIMITS, rates, "end.")


def check_second_stage(variant: Variant) -> None:
    """Initial class vectors, their gradient and steps; the towers are frozen."""
    steps, images, base = variant.settings, variant["in.images"], variant.base
    method = build(variant, "stage1.param.")
    variant.check_close("raw", "stage1.image_features_raw", method.image_features(images))
    method.step_begins(steps["stage1_iters"], steps["total_iters"])
    method.loss(variant.batch())
    variant.check_close("normalised", "stage2.init.classifier", method.classifier[:base])
    assert not method.classifier[base:].any()

    method = build(variant, "stage1.param.", variant["stage2.param.classifier"])
    method.step_begins(steps["stage1_iters"] + 1, steps["total_iters"])
    variant.check_close("logits", "stage2.out.logits_train", method.logits(images)[:, :base])
    loss = method.loss(variant.batch())["total"]
    variant.check_close("loss", "stage2.loss.total", loss)
    (gradient,) = torch.autograd.grad(loss, [method.classifier], retain_graph=True)
    parity.check_close("gradient", "classifier", gradient[:base], variant["stage2.grad.classifier"])
    assert not gradient[base:].any()
    towers = [p for name, p in method.named_parameters() if name != "classifier"]
    frozen = all(g is None for g in torch.autograd.grad(loss, towers, allow_unused=True))
    assert frozen, f"{variant.name}: gradients of the towers differ: they are not zero"
    rates = variant["schedule.lr2"]
    for course, end in (("stage2.traj.", "stage2.traj.param.classifier"), ("stage2.final.", "stage2.final.classifier")):
        method = build(variant, "stage1.param.", variant["stage2.param.classifier"])
        method.second = True
        reference = torch.zeros_like(method.classifier)
        reference[:base] = variant[end]
        variant.tensors[f"{course}param.classifier"] = reference
        variant.tensors[f"{course}loss"] = variant["stage2.traj.loss"]
        course_rates = rates[:5] if course == "stage2.traj." else rates
        variant.check_trajectory(method, method.settings.optimisation, ours, LIMITS, course_rates, course)


def check_evaluation(variant: Variant) -> None:
    """Training classes are scored by their vector, other classes by their text."""
    method = build(variant, "stage1.param.", variant["stage2.final.classifier"]).eval()
    base, mixed = variant.base, variant["eval.mixed_order"]
    with torch.no_grad():
        rows, logits = method.text_features(), method.logits(variant["in.test_images"])
    for name, classes in {"base": slice(base), "novel": slice(base, None), "mixed": mixed}.items():
        variant.check_close("normalised", f"eval.classifier_{name}", rows[classes])
        variant.check_close("logits", f"eval.logits_{name}", logits[:, classes])


def check_rates(variant: Variant) -> None:
    steps, own = variant.settings["total_iters"], build(variant).settings.optimisation
    assert own.switch(steps) == variant.settings["stage1_iters"], f"{variant.name}: stages differ"
    training = TrainingSettings(epochs=1)
    rates = [rate_at(variant.settings["lr"], step, steps, training, own) for step in range(steps)]
    expected = [*variant["schedule.lr1"].tolist(), *variant["schedule.lr2"].tolist()]
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-12), f"{variant.name}: rates differ"


CHECKS = [check_first_stage, check_second_stage, check_evaluation, check_rates]


@pytest.mark.parametrize("name", variants_of("twostage"))
@pytest.mark.parametrize("check", CHECKS)
def test_twostage_parity(name: str, check: Callable[[Variant], None]) -> None:
    variant = Variant("twostage", name)
    check(variant)
    variant.check_optimisation(TwoStage.Settings())


def test_resuming_at_the_switch_of_stages(clip: PromptedClip) -> None:
    complete, resumed = (build_method("twostage", clip, DATASET, seed=1) for _ in range(2))
    losses = []
    for method, first in ((complete, 3), (resumed, 4)):
        for step in range(first, 6):
            method.step_begins(step, 6)
            losses.append(method.loss(batch())["total"].detach())
        if method is complete:
            resumed.load_state_dict(complete.state_dict())
    assert losses[0] == complete.loss(batch())["total"] and losses[1:3] == losses[3:5]


@pytest.mark.parametrize(("sizes", "trained"), [((4, 0, 0), 3), ((4, 4, 4), 5)])
def test_second_stage_trains_the_vectors_of_candidate_classes(
    clip: PromptedClip, sizes: tuple[int, int, int], trained: int
) -> None:
    method = build_method("twostage", clip, DATASET)
    assert isinstance(method, TwoStage)
    method.step_begins(6, 10)
    method.loss(batch(*sizes))["total"].backward()
    assert method.classifier.any(dim=-1).sum() == trained
    assert [name for name, p in method.named_parameters() if p.grad is not None] == ["classifier"]


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_missing_block_is_an_error(clip: PromptedClip, tower: str) -> None:
    settings = TwoStage.Settings.model_validate({f"first_{tower}_block": 99})
    with pytest.raises(UserError, match=rf"methods.twostage.first_{tower}_block is 99, but"):
        build_method("twostage", clip, DATASET, settings)
