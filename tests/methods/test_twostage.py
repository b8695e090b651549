"""2SFS gives the numbers of its authors' code, in both stages and at test time."""

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
from syncclip.methods.settings import Optimisation
from syncclip.methods.twostage import TwoStage
from syncclip.training.optimizers import rate_at
from syncclip.training.settings import TrainingSettings
from tests.methods import parity
from tests.methods.classes import DATASET, batch
from tests.methods.variants import Variant, variants_of

LIMITS = (5e-5, 2e-7)


@pytest.fixture(params=variants_of("twostage"))
def variant(request: pytest.FixtureRequest) -> Variant:
    return Variant("twostage", request.param)


def ours(theirs: str) -> str:
    if theirs == "classifier":
        return theirs
    found = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(ln_[12])\.(weight|bias)", theirs)
    assert found is not None, theirs
    tower, block, norm, kind = found.groups()
    return f"{'vision' if tower else 'text'}_parts.{block}.{kind}.{norm}"


def build(variant: Variant, prefix: str = "param.", classifier: Tensor | None = None) -> TwoStage:
    told = variant.settings
    settings = TwoStage.Settings(
        first_stage=told["n_iters_frac"], towers=told["ln_modality"],
        first_visual_block=told["ln_vision_start"] + 1, first_text_block=told["ln_text_start"] + 1,
    )  # fmt: skip
    method = TwoStage(parity.tiny_clip(), variant.classnames, variant.base, told["template"], settings)
    rows = torch.zeros_like(method.classifier)
    if classifier is not None:
        rows[: variant.base] = classifier
    method.load_state_dict({"classifier": rows, **variant.under(prefix, ours)})
    return method


def check_first_stage(variant: Variant) -> None:
    """Features, logits, loss, gradients; five steps, and the whole stage to its end."""
    method, images, base = build(variant), variant["in.images"], variant.base
    told, asked = variant.settings, build(variant).settings.optimisation
    method.step_begins(0, told["total_iters"])
    raw = method.image_features(images)
    variant.differs("raw", "out.image_features_raw", raw)
    variant.differs("normalised", "out.image_features", normalize(raw, dim=-1))
    variant.differs("normalised", "out.text_features_base", method.text_features(slice(base)))
    variant.differs("logits", "out.logits_train", method.logits(images)[:, :base])
    loss = method.loss(variant.batch())["total"]
    variant.differs("loss", "loss.total", loss)
    variant.check_gradients(method, loss, ours)
    first = variant["schedule.lr1"]
    variant.check_course(method, asked, ours, LIMITS, first[:5])
    method = build(variant)
    variant.tensors |= {f"end.param.{name}": end for name, end in variant.under("stage1.param.").items()}
    variant.tensors["end.loss"] = variant["schedule.loss1"]
    variant.check_course(method, asked, ours, LIMITS, first, "end.")


def check_second_stage(variant: Variant) -> None:
    """What the class vectors start as, and their gradient and steps; the towers stay as they are."""
    told, images, base = variant.settings, variant["in.images"], variant.base
    method = build(variant, "stage1.param.")
    variant.differs("raw", "stage1.image_features_raw", method.image_features(images))
    method.step_begins(told["stage1_iters"], told["total_iters"])
    method.loss(variant.batch())
    variant.differs("normalised", "stage2.init.classifier", method.classifier[:base])
    assert not method.classifier[base:].any()

    method = build(variant, "stage1.param.", variant["stage2.param.classifier"])
    method.step_begins(told["stage1_iters"] + 1, told["total_iters"])
    variant.differs("logits", "stage2.out.logits_train", method.logits(images)[:, :base])
    loss = method.loss(variant.batch())["total"]
    variant.differs("loss", "stage2.loss.total", loss)
    (gradient,) = torch.autograd.grad(loss, [method.classifier], retain_graph=True)
    parity.differs("gradient", "classifier", gradient[:base], variant["stage2.grad.classifier"])
    assert not gradient[base:].any()
    towers = [p for name, p in method.named_parameters() if name != "classifier"]
    reached = [g is not None for g in torch.autograd.grad(loss, towers, allow_unused=True)]
    assert not any(reached), f"{variant.name}: gradients of the towers differ from none"
    asked = method.settings.optimisation
    rates = variant["schedule.lr2"]
    for course, steps in (("stage2.traj.", rates[:5]), ("stage2.final.", rates)):
        method = build(variant, "stage1.param.", variant["stage2.param.classifier"])
        method.second = True
        end = variant["stage2.traj.param.classifier" if course == "stage2.traj." else "stage2.final.classifier"]
        padded = torch.zeros_like(method.classifier)
        padded[:base] = end
        variant.tensors[f"{course}param.classifier"] = padded
        variant.tensors[f"{course}loss"] = variant["stage2.traj.loss"]
        variant.check_course(method, asked, ours, LIMITS, steps, course)


def check_evaluation(variant: Variant) -> None:
    """A class that was seen in training has its vector, any other its text."""
    method = build(variant, "stage1.param.", variant["stage2.final.classifier"]).eval()
    base, mixed = variant.base, variant["eval.mixed_order"]
    with torch.no_grad():
        rows, logits = method.text_features(), method.logits(variant["in.test_images"])
    for which, at in {"base": slice(base), "novel": slice(base, None), "mixed": mixed}.items():
        variant.differs("normalised", f"eval.classifier_{which}", rows[at])
        variant.differs("logits", f"eval.logits_{which}", logits[:, at])


def check_rates(variant: Variant) -> None:
    told = variant.settings
    steps = told["total_iters"]
    asked: Optimisation = build(variant).settings.optimisation
    assert asked.switch(steps) == told["stage1_iters"], f"{variant.name}: stages differ"
    rates = [rate_at(told["lr"], step, steps, TrainingSettings(epochs=1), asked) for step in range(steps)]
    expected = [*variant["schedule.lr1"].tolist(), *variant["schedule.lr2"].tolist()]
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-12), f"{variant.name}: rates differ"


CHECKS = [check_first_stage, check_second_stage, check_evaluation, check_rates]


@pytest.mark.parametrize("check", CHECKS)
def test_twostage_parity(variant: Variant, check: Callable[[Variant], None]) -> None:
    check(variant)


def test_twostage_parity_of_its_optimiser(variant: Variant) -> None:
    variant.check_optimisation(TwoStage.Settings())


def test_a_switch_in_the_middle_is_the_same_after_a_kill(clip: PromptedClip) -> None:
    whole, resumed = (build_method("twostage", clip, DATASET, seed=1) for _ in range(2))
    losses = []
    for method, first in ((whole, 3), (resumed, 4)):
        for step in range(first, 6):
            method.step_begins(step, 6)
            losses.append(method.loss(batch())["total"].detach())
        if method is whole:
            resumed.load_state_dict(whole.state_dict())
    assert losses[0] == whole.loss(batch())["total"] and losses[1:3] == losses[3:5]


def test_with_synthetic_images_every_class_gets_a_vector(clip: PromptedClip) -> None:
    for sizes, kept in (((4, 0, 0), 3), ((4, 4, 4), 5)):
        method = build_method("twostage", clip, DATASET)
        assert isinstance(method, TwoStage)
        method.step_begins(6, 10)
        method.loss(batch(*sizes))["total"].backward()
        assert method.classifier.any(dim=-1).sum() == kept
        assert [name for name, p in method.named_parameters() if p.grad is not None] == ["classifier"]


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_a_block_that_is_not_there_is_refused(clip: PromptedClip, tower: str) -> None:
    settings = TwoStage.Settings.model_validate({f"first_{tower}_block": 99})
    with pytest.raises(UserError, match=rf"methods.twostage.first_{tower}_block: there is no block 99"):
        build_method("twostage", clip, DATASET, settings)
