"""An owner that was stopped at any point of a write, while another took over, changes nothing afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.session import current
from syncclip.storage import conditional_writes, locks
from syncclip.storage.locks import Hold
from tests.object_store import faulty_bucket, s3_bucket
from tests.storage.late import Act, Clock, Outcome, stopped_at

pytestmark = pytest.mark.slow


def write(folder: str, _: Hold) -> None:
    """A file that the new owner does not write."""
    storage.write_bytes(storage.join(folder, "late.json"), b"the old owner's")


def overwrite(folder: str, _: Hold) -> None:
    storage.write_bytes(storage.join(folder, "both.json"), b"the old owner's")


def write_below(folder: str, _: Hold) -> None:
    storage.publish(__file__, storage.join(folder, "new", "late.py"))


def write_for_another(folder: str, hold: Hold) -> None:
    """A write of a worker whose driver holds the lock."""
    with current().under_lock(folder, hold.token):
        overwrite(folder, hold)


def remove(folder: str, _: Hold) -> None:
    storage.remove(storage.join(folder, "kept.json"))


def remove_for_another(folder: str, hold: Hold) -> None:
    with current().under_lock(folder, hold.token):
        remove(folder, hold)


def remove_folder(folder: str, _: Hold) -> None:
    storage.remove(storage.join(folder, "kept"), recursive=True)


def renew(folder: str, hold: Hold) -> None:
    hold.renew()


def release(folder: str, hold: Hold) -> None:
    hold.release()


ACTS = [write, overwrite, write_below, write_for_another, remove, remove_for_another, remove_folder, renew, release]


def take_over(folder: str) -> None:
    """Write a file that the first owner may also write."""
    storage.write_bytes(storage.join(folder, "both.json"), b"the new owner's")


def prepare(folder: str) -> None:
    for name in ("both.json", "kept.json", "kept/one", "kept/two"):
        storage.write_bytes(storage.join(folder, name), b"before")


@pytest.fixture(params=["disk", "s3", "s3 without conditions"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "run")
    elif request.param == "s3":
        with s3_bucket() as bucket:
            yield f"{bucket}/run"
    else:
        with faulty_bucket() as (bucket, proxy):
            proxy.unconditional = True
            yield f"{bucket}/run"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that passes only while a lock waits."""
    clock = Clock()
    for module in (locks, conditional_writes):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.mark.fault
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_no_write_of_an_owner_lands_that_was_stopped_while_another_took_over(
    folder: str, act: Act, clock: Clock
) -> None:
    outcomes: list[Outcome] = []
    while not outcomes or outcomes[-1].stopped:
        prepare(folder)
        outcomes.append(stopped_at(len(outcomes), folder, act, take_over, clock=clock))
        assert outcomes[-1].at_end == outcomes[-1].at_takeover or not outcomes[-1].stopped, outcomes[-1]
        storage.remove(folder, recursive=True)
    assert len(outcomes) > 1 and outcomes[-1].error == ("LostLockError" if act is release else "")
    assert all(outcome.error == "LostLockError" for outcome in outcomes[:-1]), [
        (outcome.stopped, outcome.error) for outcome in outcomes
    ]
