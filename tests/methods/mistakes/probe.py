"""Mistakes in the linear probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from torch import Tensor

from syncclip.methods import frozen
from syncclip.methods.probe import Probe
from syncclip.methods.settings import ProbeSettings
from tests.methods import parity, test_probe
from tests.methods.mistakes import asking


def normalised_start(patch: pytest.MonkeyPatch) -> None:
    """The vectors start at length 1."""
    right = Probe.__init__

    def wrong(method: Probe, *given: Any) -> None:
        right(method, *given)
        method.start.raw = False

    patch.setattr(Probe, "__init__", wrong)


def names_without_underscores(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(frozen, "readable_name", lambda name: name.replace("&#95;", " "))


def one_multiplier_for_all(patch: pytest.MonkeyPatch) -> None:
    right = Probe.prepare

    def wrong(method: Probe, views: Iterable[Iterable[parity.Batch]]) -> None:
        right(method, views)
        method.multipliers.fill_(method.multipliers.mean())

    patch.setattr(Probe, "prepare", wrong)


def constrained_otherwise(patch: pytest.MonkeyPatch, change: Callable[[Probe, Tensor], Tensor]) -> None:
    """The constraint is changed, and all else is right."""
    right = Probe.terms

    def wrong(method: Probe, batch: parity.Batch) -> dict[str, Tensor]:
        terms = right(method, batch)
        return terms | {name: change(method, terms[name]) for name in terms.keys() - {"classification"}}

    patch.setattr(Probe, "terms", wrong)


def sum_over_classes(patch: pytest.MonkeyPatch) -> None:
    constrained_otherwise(patch, lambda method, term: term * len(method.classnames))


def mean_over_dimensions(patch: pytest.MonkeyPatch) -> None:
    constrained_otherwise(patch, lambda method, term: term / method.vectors.shape[1])


def detached_constraint(patch: pytest.MonkeyPatch) -> None:
    """The constraint is reported, but pulls at nothing."""
    constrained_otherwise(patch, lambda _, term: term.detach())


def check_variant(variant: str, _: pytest.MonkeyPatch) -> None:
    test_probe.check(variant)


ALL = (normalised_start, names_without_underscores, asking(ProbeSettings, weight_decay=5e-4))
CONSTRAINED = (one_multiplier_for_all, sum_over_classes, mean_over_dimensions, detached_constraint)
CASES = [(plant, partial(check_variant, variant)) for variant in test_probe.VARIANTS for plant in ALL]
CASES += [(plant, partial(check_variant, "clap")) for plant in CONSTRAINED]
