"""What synthetic images are worth in real ones, from answers that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from syncclip.recipe.study import Arm, StudySettings
from syncclip.studies.analysis import SHOTS, Evidence, exchanges, fits, series
from syncclip.studies.bootstrap import Answers

REAL = {1: 0.5, 4: 0.6, 16: 0.65}
"""Shots -> share of the images that are right: the error is 30 % + 20 % / sqrt(shots)."""
IMAGES = 4000


def answers(share: float) -> Answers:
    """Of each half, so large a share is right."""
    right = np.tile(np.arange(IMAGES // 2) < share * IMAGES / 2, 2)[None]
    return Answers(own=right, open=right, novel=np.arange(IMAGES) >= IMAGES // 2)


def evidence(shots: dict[int, float], focus: float = 0.65, own: int = 4) -> tuple[Evidence, StudySettings]:
    arms = [Arm(method="ivlp", data="real", name=f"real{k}", overrides={SHOTS: k}) for k in shots]
    arms.append(Arm(method="syncclip", overrides={SHOTS: own}))
    settings = StudySettings(arms=arms, images_per_class=[1, 2, 4, 64], seeds=[1, 2], focus="syncclip-both", draws=100)
    cells = {(f"real{k}", None, seed): answers(share) for k, share in shots.items() for seed in (1, 2)}
    cells |= {("syncclip-both", n, seed): answers(focus) for n in settings.amounts for seed in (1, 2)}
    return Evidence(arms, cells), settings


def test_the_focus_arm_is_told_in_shots_of_real_images_alone() -> None:
    for one in exchanges(*evidence(REAL), shots=16)["open_hm"]:
        assert one.shots.estimate == pytest.approx(16, rel=0.05)
        assert one.per_real.estimate == pytest.approx(one.n / 12, rel=0.1)  # it has four itself


def test_shots_of_the_recipe_count_where_an_arm_overrides_nothing() -> None:
    found, settings = evidence({1: 0.5, 4: 0.6})
    whole = Evidence(
        [*found.arms, Arm(method="ivlp", data="real")],
        {**found.cells, **{("ivlp-real", None, seed): answers(0.65) for seed in (1, 2)}},
    )
    assert exchanges(whole, settings, shots=16)["hm"][0].shots.estimate == pytest.approx(16, rel=0.05)


def test_two_numbers_of_shots_are_too_few() -> None:
    assert exchanges(*evidence({1: 0.5, 4: 0.6}), shots=16) == {}


def test_models_are_held_against_each_other_for_every_metric() -> None:
    found, settings = evidence(REAL)
    judged = fits(series(found, settings), settings, "test").models
    assert list(judged) == ["syncclip-both"]
    best = judged["syncclip-both"]["open_hm"][0]
    assert best.miss == pytest.approx(0, abs=1e-6)  # all amounts do the same
