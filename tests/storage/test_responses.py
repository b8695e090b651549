"""Corrupt responses of S3 that look complete are requested again."""

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

pytestmark = [pytest.mark.fault, pytest.mark.usefixtures("short_pauses")]

DATA = random.Random(5).randbytes(100_000)


@pytest.fixture
def folder(folder: str) -> str:
    """A folder with the files x, y and z."""
    for name in "xyz":
        storage.write_bytes(f"{folder}/{name}", DATA)
    return folder


@pytest.fixture
def proxy(faulty: tuple[str, FaultyS3], folder: str) -> FaultyS3:
    return faulty[1]


def copied(folder: str, target: Path) -> bytes:
    storage.fetch(f"{folder}/x", target / "copy")
    return (target / "copy").read_bytes()


def opened(folder: str, _: Path) -> bytes:
    with storage.open_read(f"{folder}/x") as file:
        file.seek(-500, 2)
        end = file.read()
        file.seek(0)
        return file.read() + end


def many(folder: str) -> dict[str, bytes]:
    contents = storage.read_many([f"{folder}/{name}" for name in "xyw"])
    return {url.rpartition("/")[2]: data for url, data in contents.items()}


class Middle(random.Random):
    """Corrupts always the same bit, in the middle of a response."""

    def randrange(self, *bounds: int) -> int:  # type: ignore[override]
        return bounds[-1] // 2


BOTH = {"x": DATA, "y": DATA}
CALLS: dict[str, tuple[Callable[[str, Path], Any], Any]] = {
    "read": (lambda folder, _: storage.read_bytes(f"{folder}/x"), DATA),
    "read a part": (lambda folder, _: storage.read_bytes(f"{folder}/x", 1000, 60_000), DATA[1000:60_000]),
    "read from its start": (lambda folder, _: storage.read_bytes(f"{folder}/x", 0, 7), DATA[:7]),
    "read to its end": (lambda folder, _: storage.read_bytes(f"{folder}/x", 99_000), DATA[99_000:]),
    "read many": (lambda folder, _: many(folder), BOTH),
    "copy": (copied, DATA),
    "open": (opened, DATA + DATA[-500:]),
    "exists": (lambda folder, _: (storage.exists(f"{folder}/x"), storage.exists(f"{folder}/w")), (True, False)),
}


@pytest.mark.parametrize("fault", DAMAGING)
def test_a_corrupt_response_is_requested_again(
    folder: str, proxy: FaultyS3, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call, (send, expected) in CALLS.items():
        for times, parts in ((1, 4), (2, 1)) if call in ("copy", "open") else ((2, 1),):
            monkeypatch.setattr(downloads, "PIECE", len(DATA) // parts + 1)
            proxy.spoil(fault, times)
            assert send(folder, tmp_path) == expected, call
            assert proxy.spoilt[fault], call
            proxy.soothe()


def test_two_responses_with_the_same_corruption_are_not_accepted(
    folder: str, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "luck", Middle())
    for call, (send, expected) in CALLS.items():
        for parts in (1, 4) if call in ("copy", "open") else (1,):
            monkeypatch.setattr(downloads, "PIECE", len(DATA) // parts + 1)
            proxy.spoil("flip", 2, "GET")
            assert send(folder, tmp_path) == expected, call
            proxy.soothe()


@pytest.mark.parametrize("fault", ["short", "cut listing", "error in 200", "garbage"])
def test_an_incomplete_listing_is_requested_again(folder: str, proxy: FaultyS3, fault: Fault) -> None:
    proxy.spoil(fault, 3)
    assert storage.sizes(folder) == dict.fromkeys("xyz", len(DATA))
    assert proxy.spoilt[fault] == 3


def test_a_flipped_bit_in_a_listing_is_not_an_error(folder: str, proxy: FaultyS3) -> None:
    """A corrupt number or date is requested again; a corrupt name looks like a missing file."""
    expected = dict.fromkeys("xyz", len(DATA))
    for _ in range(30):
        proxy.spoil("flip", 1)
        sizes = storage.sizes(folder)
        assert len(sizes) == len(expected)
        assert len(sizes.items() & expected.items()) >= len(expected) - 1


@pytest.mark.parametrize("fault", DAMAGING)
def test_an_upload_with_a_corrupt_response_is_repeated(folder: str, proxy: FaultyS3, fault: Fault) -> None:
    proxy.spoil(fault, 3, "PUT")
    storage.write_bytes(f"{folder}/new", DATA[::-1])
    assert proxy.spoilt[fault]
    proxy.soothe()
    assert storage.read_bytes(f"{folder}/new") == DATA[::-1]


def test_a_valid_response_is_accepted_at_once(folder: str, proxy: FaultyS3, tmp_path: Path) -> None:
    for call, requests in {"read": 1, "read many": 3, "copy": 2, "read a part": 2}.items():
        proxy.seen.clear()
        CALLS[call][0](folder, tmp_path)
        assert (call, len(proxy.seen)) == (call, requests)


def test_an_object_without_an_md5_is_read_until_responses_agree(
    folder: str, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encrypted objects and those uploaded in parts of 6 MiB: three responses, later two in the same bucket."""
    current().untagged_buckets.clear()
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize: 6 << 20)
    data = DATA * 130  # three parts
    (tmp_path / "large").write_bytes(data)
    storage.publish(tmp_path / "large", f"{folder}/large")
    for requests in (3, 2):
        proxy.seen.clear()
        assert storage.read_bytes(f"{folder}/large") == data
        assert len(proxy.seen) == requests
    proxy.spoil("flip", 1)
    assert storage.read_bytes(f"{folder}/large") == data
    assert len(proxy.seen) == 3
    storage.fetch(f"{folder}/large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    proxy.seen.clear()
    storage.fetch(f"{folder}/large", tmp_path / "copy", sha256=hashlib.sha256(data).hexdigest())
    assert len(proxy.seen) == 2  # HEAD and GET
    proxy.seen.clear()
    assert storage.read_bytes(f"{folder}/large", sha256=hashlib.sha256(data).hexdigest()) == data
    assert len(proxy.seen) == 1


def test_a_store_whose_responses_never_agree_is_unreachable(folder: str, proxy: FaultyS3) -> None:
    proxy.spoil("garbage", 10_000, "GET")
    for call in (storage.read_bytes, lambda url: storage.read_bytes(url, 1, 900), lambda url: storage.sizes(folder)):
        with pytest.raises(storage.UnreachableError, match=r"cannot \w+ s3://spoilt/"):
            call(f"{folder}/x")


def test_a_corrupt_object_is_returned_for_its_own_checksum(folder: str, proxy: FaultyS3, tmp_path: Path) -> None:
    corrupt = b"x" + DATA[1:]
    storage.write_bytes(f"{folder}/x", corrupt)
    storage.fetch(f"{folder}/x", tmp_path / "copy", sha256=hashlib.sha256(DATA).hexdigest())
    assert (tmp_path / "copy").read_bytes() == corrupt == storage.read_bytes(f"{folder}/x")


@pytest.mark.parametrize("piece", [1 << 20, 32 << 20])
def test_an_object_uploaded_in_parts_is_read_once(
    folder: str, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    import boto3

    monkeypatch.setattr(downloads, "PIECE", piece)
    data, (bucket, _, key) = random.Random(7).randbytes((5 << 20) + 1000), f"{folder[5:]}/parts".partition("/")
    client = boto3.client("s3", endpoint_url=proxy.endpoint)
    upload = {
        "Bucket": bucket,
        "Key": key,
        "UploadId": client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"],
    }
    pieces = enumerate((data[: 5 << 20], data[5 << 20 :]), 1)
    tags = [client.upload_part(**upload, PartNumber=number, Body=body)["ETag"] for number, body in pieces]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    proxy.seen.clear()
    storage.fetch(f"{folder}/parts", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert sum(each.startswith(f"GET /{bucket}/{key}") for each in proxy.seen) == -(-len(data) // piece)
