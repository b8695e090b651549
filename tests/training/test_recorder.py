from __future__ import annotations

from syncclip.training.recorder import checkpoint_due, log_due


def test_checkpoints_fall_due_by_the_step_alone_and_never_at_the_end() -> None:
    assert [done for done in range(13) if checkpoint_due(done, 12, 4)] == [4, 8]
    assert [done for done in range(13) if checkpoint_due(done, 12, 4, waited=done in (0, 5, 12))] == [4, 5, 8]


def test_first_last_and_every_nth_step_are_logged() -> None:
    assert [done for done in range(1, 12) if log_due(done, 11, 4)] == [1, 4, 8, 11]
