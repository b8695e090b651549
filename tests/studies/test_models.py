from __future__ import annotations

import numpy as np
import pytest

from syncclip.studies.bootstrap import Floats
from syncclip.studies.fit import MODELS, held_out, seed_draws

AMOUNTS = [1, 2, 4, 8, 16, 32, 64]
N = np.array(AMOUNTS, float)


def noisy(errors: Floats, noise: float = 0.05) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(0)
    seeds = errors + generator.normal(0, noise, (5, len(errors)))
    return seeds.mean(axis=0), seed_draws(seeds, 200, generator)


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("constant", np.full(len(N), 40.0)),
        ("logarithm", 40 - 2 * np.log2(N)),
        ("power law", 20 + 15 * N**-0.7),
    ],
)
def test_what_the_curve_follows_foretells_it_best(name: str, errors: Floats) -> None:
    best, *others = held_out(AMOUNTS, *noisy(errors))
    assert best.model == name and best.best > 0.5
    assert best.miss < min(other.miss for other in others)
    assert sum(one.best for one in (best, *others)) == pytest.approx(1)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_misses_nothing_of_its_own_curve(name: str) -> None:
    curves = {"constant": 0 * N + 30, "logarithm": 30 - np.log(N), "power law": 20 + 10 * N**-0.5}
    assert MODELS[name](N[:4], curves[name][None, :4], N[6]) == pytest.approx(curves[name][6], rel=1e-3)


def test_the_miss_is_the_root_mean_square_over_the_amounts_held_out() -> None:
    errors = np.array([40.0, 40, 40, 43, 40])
    (constant,) = (one for one in held_out(AMOUNTS[:5], errors, errors[None]) if one.model == "constant")
    assert constant.miss == pytest.approx(np.sqrt((3**2 + 0.75**2) / 2))


def test_three_amounts_leave_none_to_hold_out() -> None:
    assert held_out(AMOUNTS[:3], N[:3], N[None, :3]) == ()
