"""Periodic calls begin and end with their block."""

from __future__ import annotations

import threading

from syncclip.runtime.heartbeat import repeating


def test_an_action_is_repeated_until_the_block_ends() -> None:
    calls: list[int] = []
    thrice = threading.Event()

    def action() -> None:
        calls.append(1)
        if len(calls) == 3:
            thrice.set()

    before = {*threading.enumerate()}
    with repeating(action, 0.001):
        (own,) = [thread for thread in {*threading.enumerate()} - before if thread.name == "heartbeat"]
        assert thrice.wait(60)
    done = len(calls)
    assert not own.is_alive()
    assert len(calls) == done


def test_an_action_is_not_called_before_the_first_interval() -> None:
    calls: list[int] = []
    with repeating(lambda: calls.append(1), 3600):
        pass
    assert not calls
