"""Answers of S3 that look whole and are wrong: asked for again, whichever call they are for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncclip import storage
from syncclip.core.session import current
from syncclip.storage import downloads
from tests.worlds.faulty_s3 import DAMAGING, Fault, FaultyS3

pytestmark = [pytest.mark.fault, pytest.mark.usefixtures("impatient")]

DATA = random.Random(5).randbytes(100_000)


@pytest.fixture
def place(place: str) -> str:
    """With three files, x, y and z."""
    for name in "xyz":
        storage.write_bytes(f"{place}/{name}", DATA)
    return place


@pytest.fixture
def proxy(behind: tuple[str, FaultyS3], place: str) -> FaultyS3:
    return behind[1]


def copied(place: str, folder: Path) -> bytes:
    storage.fetch(f"{place}/x", folder / "copy")
    return (folder / "copy").read_bytes()


def opened(place: str, _: Path) -> bytes:
    with storage.open_read(f"{place}/x") as file:
        file.seek(-500, 2)
        end = file.read()
        file.seek(0)
        return file.read() + end


def many(place: str) -> dict[str, bytes]:
    found = storage.read_many([f"{place}/{name}" for name in "xyw"])
    return {url.rpartition("/")[2]: data for url, data in found.items()}


class Middle(random.Random):
    """Damages the middle of whatever is answered, always the same bit."""

    def randrange(self, *bounds: int) -> int:  # type: ignore[override]
        return bounds[-1] // 2


BOTH = {"x": DATA, "y": DATA}
CALLS: dict[str, tuple[Callable[[str, Path], Any], Any]] = {
    "read": (lambda place, _: storage.read_bytes(f"{place}/x"), DATA),
    "read a part": (lambda place, _: storage.read_bytes(f"{place}/x", 1000, 60_000), DATA[1000:60_000]),
    "read from its start": (lambda place, _: storage.read_bytes(f"{place}/x", 0, 7), DATA[:7]),
    "read to its end": (lambda place, _: storage.read_bytes(f"{place}/x", 99_000), DATA[99_000:]),
    "read many": (lambda place, _: many(place), BOTH),
    "copy": (copied, DATA),
    "open": (opened, DATA + DATA[-500:]),
    "exists": (lambda place, _: (storage.exists(f"{place}/x"), storage.exists(f"{place}/w")), (True, False)),
}


@pytest.mark.parametrize("fault", DAMAGING)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("pieces", [1, 4])
def test_a_damaged_answer_is_asked_for_again(
    place: str,
    proxy: FaultyS3,
    fault: Fault,
    call: str,
    times: int,
    pieces: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downloads, "PIECE", len(DATA) // pieces + 1)
    proxy.spoil(fault, times)
    ask, wanted = CALLS[call]
    assert ask(place, tmp_path) == wanted
    assert proxy.spoilt[fault]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("pieces", [1, 4])
def test_the_same_damage_twice_is_not_believed(
    place: str, proxy: FaultyS3, call: str, pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PIECE", len(DATA) // pieces + 1)
    monkeypatch.setattr(proxy, "luck", Middle())
    proxy.spoil("flip", 2, "GET")
    ask, wanted = CALLS[call]
    assert ask(place, tmp_path) == wanted


@pytest.mark.parametrize("fault", ["short", "cut listing", "error in 200", "garbage"])
def test_a_listing_that_is_cut_is_asked_for_again(place: str, proxy: FaultyS3, fault: Fault) -> None:
    proxy.spoil(fault, 3)
    assert storage.sizes(place) == dict.fromkeys("xyz", len(DATA))
    assert proxy.spoilt[fault] == 3


def test_a_flip_anywhere_in_a_listing_is_no_error(place: str, proxy: FaultyS3) -> None:
    """In a number or a date it is asked for again; in a name, whoever misses a file has to ask again."""
    sound = dict.fromkeys("xyz", len(DATA))
    for _ in range(60):
        proxy.spoil("flip", 1)
        found = storage.sizes(place)
        assert len(found) == len(sound)
        assert len(found.items() & sound.items()) >= len(sound) - 1


@pytest.mark.parametrize("fault", DAMAGING)
def test_what_was_not_written_is_sent_again(place: str, proxy: FaultyS3, fault: Fault) -> None:
    proxy.spoil(fault, 3, "PUT")
    storage.write_bytes(f"{place}/new", DATA[::-1])
    assert proxy.spoilt[fault]
    proxy.soothe()
    assert storage.read_bytes(f"{place}/new") == DATA[::-1]


def test_a_sound_answer_is_believed_at_once(place: str, proxy: FaultyS3, tmp_path: Path) -> None:
    for call, requests in {"read": 1, "read many": 3, "copy": 2, "read a part": 2}.items():
        proxy.seen.clear()
        CALLS[call][0](place, tmp_path)
        assert (call, len(proxy.seen)) == (call, requests)


def test_an_object_whose_tag_is_no_digest_is_believed_when_answers_agree(
    place: str, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of encrypted objects, and of those that were uploaded in parts. At first three, since one may be damaged."""
    current().untagged_buckets.clear()
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize: 5 << 20)
    data = DATA * 110  # two parts
    (tmp_path / "large").write_bytes(data)
    storage.publish(tmp_path / "large", f"{place}/large")
    for requests in (3, 2):
        proxy.seen.clear()
        assert storage.read_bytes(f"{place}/large") == data
        assert len(proxy.seen) == requests
    proxy.spoil("flip", 1)
    assert storage.read_bytes(f"{place}/large") == data
    assert len(proxy.seen) == 3
    storage.fetch(f"{place}/large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    proxy.seen.clear()
    storage.fetch(f"{place}/large", tmp_path / "copy", sha256=hashlib.sha256(data).hexdigest())
    assert len(proxy.seen) == 2  # a HEAD and a GET: whoever knows the digest need not ask twice
    proxy.seen.clear()
    assert storage.read_bytes(f"{place}/large", sha256=hashlib.sha256(data).hexdigest()) == data
    assert len(proxy.seen) == 1


def test_a_store_that_never_says_the_same_twice_is_told_in_one_sentence(place: str, proxy: FaultyS3) -> None:
    proxy.spoil("garbage", 10_000, "GET")
    for call in (storage.read_bytes, lambda url: storage.read_bytes(url, 1, 900), lambda url: storage.sizes(place)):
        with pytest.raises(storage.UnreachableError, match=r"cannot \w+ s3://spoilt/.*; check the network"):
            call(f"{place}/x")


def test_a_damaged_object_is_given_as_it_is_for_its_checksum_to_detect(
    place: str, proxy: FaultyS3, tmp_path: Path
) -> None:
    damaged = b"x" + DATA[1:]
    storage.write_bytes(f"{place}/x", damaged)
    storage.fetch(f"{place}/x", tmp_path / "copy", sha256=hashlib.sha256(DATA).hexdigest())
    assert (tmp_path / "copy").read_bytes() == damaged == storage.read_bytes(f"{place}/x")
