"""A small file is replaced only if it is still what it was, locally and in stores that compare or don't."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.storage import conditional_writes
from syncclip.storage.conditional_writes import read_current, swap
from tests.object_store import faulty_bucket, s3_bucket


@pytest.fixture(params=["local", "s3", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a file may come to be, in a folder that isn't there yet."""
    monkeypatch.setattr(conditional_writes, "SETTLE", 0.0)
    if request.param == "s3":
        with s3_bucket() as bucket:
            yield f"{bucket}/new/file"
    elif request.param == "memory":
        yield "memory://swaps/new/file"
        storage.remove("memory://swaps", recursive=True)
    else:
        yield str(tmp_path / "new" / "file")


def test_it_is_made_replaced_and_removed(place: str) -> None:
    assert read_current(place) is None
    assert swap(place, None, b"one")
    assert not swap(place, None, b"other") and read_current(place) == b"one"
    assert not swap(place, b"other", b"two") and read_current(place) == b"one"
    assert swap(place, b"one", b"a longer two") and swap(place, b"a longer two", b"3")
    assert read_current(place) == b"3"
    assert not swap(place, b"one", None) and read_current(place) == b"3"
    assert swap(place, b"3", None) and read_current(place) is None
    assert not swap(place, b"3", b"four") and not swap(place, b"3", None) and read_current(place) is None


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
@pytest.mark.parametrize("before", [None, b"old"])
def test_of_many_at_once_one_replaces_it(place: str, before: bytes | None) -> None:
    if before is not None:
        swap(place, None, before)

    def contend(number: int) -> bool:
        while read_current(place) == before:
            if swap(place, before, b"%d" % number):
                return True
            time.sleep(random.uniform(0, 1))  # on S3 each may have aborted another's upload
        return False

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(contend, range(8)))
    assert won.count(True) == 1 and read_current(place) == b"%d" % won.index(True)


def test_where_a_store_does_not_compare_the_last_writer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    place = "memory://swaps/contested"
    monkeypatch.setattr("time.sleep", lambda _: storage.write_bytes(place, b"another's"))
    assert not swap(place, None, b"mine")
    storage.remove("memory://swaps", recursive=True)


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_lost_answer_is_no_refusal(before: bytes | None) -> None:
    with faulty_bucket() as (bucket, proxy):
        if before is not None:
            swap(f"{bucket}/file", None, before)
        proxy.spoil("lost", times=1, method="PUT")
        assert swap(f"{bucket}/file", before, b"new")
        assert proxy.spoilt["lost"] == 1 and read_current(f"{bucket}/file") == b"new"


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*below: .*; choose a location that you may write"):
        swap(str(tmp_path / "file" / "below"), None, b"")
