"""Sessions are nested, and pickled to workers."""

from __future__ import annotations

import pickle
from pathlib import Path

from syncclip.core.session import Session, current
from syncclip.core.trust import trust, trusted


def test_a_pickled_session_has_no_locks_of_the_process() -> None:
    session = Session({"anon": True}, {"anon": False}, {"a:B": True}, {"c:D": Path("run.json")}, {"s3://b/set": "12"})
    session.holds.append(object())
    received = pickle.loads(pickle.dumps(session.under_lock("s3://b/set", "token")))
    assert received == Session(
        {"anon": False}, {}, {"a:B": True}, {"c:D": Path("run.json")}, {"s3://b/set": "12"}, ("s3://b/set", "token")
    )
    assert received.holds == []


def test_changes_end_with_their_session() -> None:
    outer = current()
    with outer.copy() as inner:
        trust("a:B")
        assert current() is inner and trusted() == ("a:B",)
        assert inner.holds is outer.holds
    assert current() is outer and trusted() == ()


def test_sessions_may_exit_in_any_order() -> None:
    outer, first, second = current(), Session(), Session()
    first.enter()
    second.enter()
    first.__exit__()
    assert current() is second
    second.__exit__()
    assert current() is outer
