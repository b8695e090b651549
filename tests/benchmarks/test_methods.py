"""The race itself: every method and its plain formulation are timed and weighed."""

from __future__ import annotations

from typing import Any, cast

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
def test_both_sides_of_every_method_are_timed_and_weighed(clip: PromptedClip, name: str) -> None:
    method, plain, batch = build(name, clip)
    for module in method.modules():
        if isinstance(module, FrozenTexts):
            module()  # as `Course` has it: both sides compute it once
    found = race(Entrants(name, method, plain, cast(Batch, batch), batch.images), repetitions=2)
    assert len(found.evaluation.seconds) == 2 and found.first > 0
    learns: Any = METHODS[name].Settings.data
    assert len(found.step.seconds) == (2 if learns else 0) and (found.bytes is not None) == bool(learns)
    assert found.row(3).count("|") == 12
