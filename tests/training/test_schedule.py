from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncclip.training.loop import learning_rate, position
from syncclip.training.recorder import checkpoint_due, log_due


def test_the_first_epoch_warms_up_and_the_cosine_starts_after_it() -> None:
    rates = [learning_rate(0.002, epoch, 4) for epoch in range(4)]
    # by hand: 0.001 (1 + cos 0), 0.001 (1 + cos 45 degrees), 0.001 (1 + cos 90 degrees)
    assert rates == pytest.approx([1e-5, 0.002, 0.001 * (1 + math.sqrt(0.5)), 0.001], rel=1e-12)


def test_one_epoch_is_warm_up_only() -> None:
    assert learning_rate(0.0025, 0, 1) == 1e-5


def test_without_warm_up_the_first_epoch_has_the_full_rate() -> None:
    assert learning_rate(0.5, 0, 10, warmup_epochs=0) == 0.5


def test_a_longer_warm_up_is_constant() -> None:
    assert [learning_rate(1.0, epoch, 5, 2, 0.3) for epoch in range(3)] == [0.3, 0.3, 1.0]


@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_every_step_has_one_place(step: int, steps_per_epoch: int) -> None:
    epoch, within = position(step, steps_per_epoch)
    assert 0 <= within < steps_per_epoch
    assert epoch * steps_per_epoch + within == step


def test_checkpoints_fall_due_by_the_step_alone_and_never_at_the_end() -> None:
    assert [done for done in range(13) if checkpoint_due(done, 12, 4)] == [4, 8]
    assert [done for done in range(13) if checkpoint_due(done, 12, 4, waited=done in (0, 5, 12))] == [4, 5, 8]


def test_first_last_and_every_nth_step_are_logged() -> None:
    assert [done for done in range(1, 12) if log_due(done, 11, 4)] == [1, 4, 8, 11]
