"""An owner that was stopped at any point of a write, while another took over, changes nothing afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.session import current
from syncclip.storage import locks
from syncclip.storage.locks import Hold
from tests.object_store import faulty_bucket, s3_bucket
from tests.storage.late import PACE, Act, Outcome, stopped_at

pytestmark = pytest.mark.slow


def write(folder: str, _: Hold) -> None:
    """A file that the new owner does not write."""
    storage.write_bytes(storage.join(folder, "late.json"), b"the old owner's")


def overwrite(folder: str, _: Hold) -> None:
    storage.write_bytes(storage.join(folder, "both.json"), b"the old owner's")


def write_below(folder: str, _: Hold) -> None:
    storage.publish(__file__, storage.join(folder, "new", "late.py"))


def write_for_another(folder: str, hold: Hold) -> None:
    """As a worker does, whose driver holds the folder."""
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
    """What the new owner writes."""
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
def hasty(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same proportions in less time."""
    interval = 0.3 if storage.urls.scheme(folder) else 0.05  # more than a few requests take, else each renews
    for name, times in zip(PACE, (1, 3, 0.2, 0.5, 1), strict=True):
        monkeypatch.setattr(locks, name, times * interval)


@pytest.mark.fault
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_no_write_of_an_owner_lands_that_was_stopped_while_another_took_over(
    folder: str, act: Act, hasty: None
) -> None:
    stops: list[Outcome] = []
    while not stops or stops[-1].stopped:
        prepare(folder)
        stops.append(stopped_at(len(stops), folder, act, take_over))
        assert stops[-1].at_end == stops[-1].at_takeover or not stops[-1].stopped, stops[-1]
        storage.remove(folder, recursive=True)
    assert len(stops) > 1 and stops[-1].said == ("LostLockError" if act is release else "")
    assert all(stop.said == "LostLockError" for stop in stops[:-1]), [(stop.stopped, stop.said) for stop in stops]
