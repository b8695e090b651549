"""Which model of the curve foretells amounts that it has not seen: a constant, a logarithm, or the power law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from syncclip.study.bootstrap import Floats
from syncclip.study.fit import MIN_AMOUNTS, fit_power_law

Model = Callable[[Floats, Floats, float], Floats]
"""Amounts (A,) and errors (R, A) -> the errors (R,) that it expects at another amount."""


def constant(amounts: Floats, errors: Floats, ahead: float) -> Floats:  # noqa: ARG001
    """The mean of what was seen: more pictures change nothing."""
    mean: Floats = errors.mean(axis=1)
    return mean


def logarithm(amounts: Floats, errors: Floats, ahead: float) -> Floats:
    """Each doubling takes away as many points as the one before."""
    steps = np.log(amounts) - np.log(amounts).mean()
    slope = errors @ steps / (steps @ steps)
    expected: Floats = errors.mean(axis=1) + slope * (np.log(ahead) - np.log(amounts).mean())
    return expected


def power_law(amounts: Floats, errors: Floats, ahead: float) -> Floats:
    """`fit.fit_power_law`: it levels off."""
    return fit_power_law(amounts, errors)([ahead])[:, 0]


MODELS: dict[str, Model] = {"constant": constant, "logarithm": logarithm, "power law": power_law}


@dataclass(frozen=True)
class HeldOut:
    """How far a model is off where it has not looked.

    Attributes:
        model: a key of `MODELS`.
        miss: root mean square of its errors, in points.
        best: share of the draws in which it misses least.
    """

    model: str
    miss: float
    best: float


def held_out(amounts: Sequence[int], means: Floats, draws: Floats) -> tuple[HeldOut, ...]:
    """Fit every model to the first amounts and ask it for the next one, for each next one that there is.

    Args:
        amounts: (A,) pictures per class, ascending.
        means: (A,) measured errors, in points.
        draws: (R, A) the same in each bootstrap draw.

    Returns:
        One entry a model, the best first; empty with fewer than four amounts.
    """
    n = np.asarray(amounts, dtype=np.float64)
    if len(n) <= MIN_AMOUNTS:
        return ()
    rows = np.vstack([means, draws])
    missed = {
        name: np.sqrt(
            np.mean([(model(n[:k], rows[:, :k], n[k]) - rows[:, k]) ** 2 for k in range(MIN_AMOUNTS, len(n))], axis=0)
        )
        for name, model in MODELS.items()
    }
    least = np.stack([miss[1:] for miss in missed.values()]).argmin(axis=0)
    found = [HeldOut(name, float(miss[0]), float((least == i).mean())) for i, (name, miss) in enumerate(missed.items())]
    return tuple(sorted(found, key=lambda one: one.miss))
