"""Compare-and-swap of a file on a disk, on S3, and on a store without a fence."""

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
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of a file that does not exist, in a folder that does not exist."""
    monkeypatch.setattr(conditional_writes, "SETTLE", 0.0)
    if request.param == "s3":
        with s3_bucket() as bucket:
            yield f"{bucket}/new/file"
    elif request.param == "memory":
        yield "memory://swaps/new/file"
        storage.remove("memory://swaps", recursive=True)
    else:
        yield str(tmp_path / "new" / "file")


def test_a_file_is_created_replaced_and_removed(url: str) -> None:
    assert read_current(url) is None
    assert swap(url, None, b"one")
    assert not swap(url, None, b"other") and read_current(url) == b"one"
    assert not swap(url, b"other", b"two") and read_current(url) == b"one"
    assert swap(url, b"one", b"a longer two") and swap(url, b"a longer two", b"3")
    assert read_current(url) == b"3"
    assert not swap(url, b"one", None) and read_current(url) == b"3"
    assert swap(url, b"3", None) and read_current(url) is None
    assert not swap(url, b"3", b"four") and not swap(url, b"3", None) and read_current(url) is None


@pytest.mark.parametrize("url", ["local", "s3"], indirect=True)
@pytest.mark.parametrize("before", [None, b"old"])
def test_one_of_several_concurrent_writers_succeeds(url: str, before: bytes | None) -> None:
    if before is not None:
        swap(url, None, before)

    def contend(number: int) -> bool:
        while read_current(url) == before:
            if swap(url, before, b"%d" % number):
                return True
            time.sleep(random.uniform(0, 1))  # on S3 the writers may have aborted each other
        return False

    with ThreadPoolExecutor(8) as threads:
        successes = list(threads.map(contend, range(8)))
    assert successes.count(True) == 1 and read_current(url) == b"%d" % successes.index(True)


def test_without_a_fence_a_later_write_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "memory://swaps/contested"
    monkeypatch.setattr("time.sleep", lambda _: storage.write_bytes(url, b"other"))
    assert not swap(url, None, b"own")
    storage.remove("memory://swaps", recursive=True)


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_swap_whose_response_was_lost_succeeds(before: bytes | None) -> None:
    with faulty_bucket() as (bucket, proxy):
        if before is not None:
            swap(f"{bucket}/file", None, before)
        proxy.spoil("lost", times=1, method="PUT")
        assert swap(f"{bucket}/file", before, b"new")
        assert proxy.spoilt["lost"] == 1 and read_current(f"{bucket}/file") == b"new"


def test_an_unwritable_location_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*below"):
        swap(str(tmp_path / "file" / "below"), None, b"")
