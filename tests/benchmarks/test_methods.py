"""Time and memory of every method and of its plain formulation are measured."""

from __future__ import annotations

from typing import cast

import pytest

from benchmarks.course import Batch, Entrants
from benchmarks.methods import race
from syncclip.clip.prompted import PromptedClip
from syncclip.methods import METHODS
from syncclip.methods.frozen import FrozenTexts
from tests.benchmarks.test_plain import build, clip

__all__ = ["clip"]  # a fixture

pytestmark = [pytest.mark.nightly, pytest.mark.slow]


@pytest.mark.parametrize("name", METHODS)
def test_both_formulations_of_every_method_are_measured(clip: PromptedClip, name: str) -> None:
    method, plain, batch = build(name, clip)
    for module in method.modules():
        if isinstance(module, FrozenTexts):
            module()  # as in `Course.entrants`
    result = race(Entrants(name, method, plain, cast(Batch, batch), batch.images), repetitions=2)
    assert len(result.evaluation.seconds) == 2 and result.first > 0
    trains = METHODS[name].Settings().trains
    assert len(result.step.seconds) == (2 if trains else 0) and (result.bytes is not None) == trains
    assert result.row(3).count("|") == 12
