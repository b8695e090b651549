"""What is repeated beside the work begins with it and ends with it."""

from __future__ import annotations

import threading

from syncclip.runtime.heartbeat import repeating


def test_it_is_repeated_until_the_block_ends() -> None:
    calls: list[int] = []
    thrice = threading.Event()

    def action() -> None:
        calls.append(1)
        if len(calls) == 3:
            thrice.set()

    others = {*threading.enumerate()}
    with repeating(action, 0.001):
        (own,) = [one for one in threading.enumerate() if one.name == "heartbeat" and one not in others]
        assert thrice.wait(60)
    done = len(calls)
    assert not own.is_alive()
    assert len(calls) == done


def test_a_block_that_ends_before_its_first_interval_saw_no_call() -> None:
    calls: list[int] = []
    with repeating(lambda: calls.append(1), 3600):
        pass
    assert not calls
