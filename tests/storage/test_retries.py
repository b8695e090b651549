"""Faults between us and a real S3 server: survived where they pass, one sentence where not, nothing half done."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fsspec.exceptions import FSTimeoutError

from syncclip import storage
from syncclip.core.session import Session, current
from syncclip.core.settings import UserError
from syncclip.storage import downloads, retries, urls
from tests.object_store import s3_server
from tests.worlds.faulty_s3 import PASSING, Fault, FaultyS3

pytestmark = [pytest.mark.fault, pytest.mark.usefixtures("impatient")]

DATA = bytes(range(256)) * 1200
"""Enough to be torn in the middle."""
PART = 5 << 20
"""The smallest part that S3 takes."""


@pytest.fixture
def proxy(behind: tuple[str, FaultyS3], place: str) -> FaultyS3:
    return behind[1]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_changes_nothing_for_who_writes_reads_lists_or_removes(
    place: str, proxy: FaultyS3, fault: Fault
) -> None:
    url = storage.join(place, "x")
    proxy.spoil(fault, 2, "PUT")
    storage.write_bytes(url, DATA)
    assert proxy.spoilt[fault]
    proxy.spoil(fault, 2)
    assert storage.read_bytes(url) == DATA
    proxy.spoil(fault, 2)
    assert storage.sizes(place) == {"x": len(DATA)}
    proxy.spoil(fault, 2)
    assert storage.read_many([url, url + "y"]) == {url: DATA}
    proxy.spoil(fault, 1)
    storage.remove(url)
    proxy.soothe()
    assert not storage.exists(url)


@pytest.mark.parametrize("fault", ["500", "429", "503", "reset"])
@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_more_faults_in_a_row_than_one_library_bears_are_survived(
    place: str, proxy: FaultyS3, fault: Fault, method: str
) -> None:
    url = storage.join(place, "x")
    storage.write_bytes(url, b"old")
    proxy.spoil(fault, 8, method)
    if method == "PUT":
        storage.write_bytes(url, DATA)
    else:
        assert storage.read_bytes(url) == b"old"
    assert proxy.spoilt[fault] == 8
    proxy.soothe()
    assert storage.read_bytes(url) == (DATA if method == "PUT" else b"old")


def test_a_copy_that_is_torn_in_the_middle_is_whole_in_the_end(place: str, proxy: FaultyS3, tmp_path: Path) -> None:
    url = storage.join(place, "x")
    storage.write_bytes(url, DATA)
    for fault in ("reset answer", "slow"):
        proxy.spoil(fault, 3, "GET")
        storage.fetch(url, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == DATA
        assert proxy.spoilt[fault]


def test_parts_of_a_large_copy_are_whole_too(
    place: str, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = storage.join(place, "x")
    storage.write_bytes(url, DATA)
    monkeypatch.setitem(current().options, "default_block_size", len(DATA) // 3)
    monkeypatch.setattr(downloads, "PIECE", len(DATA) // 3 + 1)
    for _ in range(3):  # a client that kept its torn connections would have none left
        proxy.spoil("reset answer", 6, "GET")
        storage.fetch(url, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == DATA
        assert len([line for line in proxy.seen if line.startswith("GET")]) == 6 + 3
        proxy.spoil("reset answer", 6, "GET")
        assert storage.read_bytes(url) == DATA
        assert proxy.spoilt["reset answer"] == 6


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that goes up in three parts."""
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize: PART)
    (tmp_path / "large").write_bytes(os.urandom(2 * PART + 1000))
    return tmp_path / "large"


def uploads(url: str) -> list[Any]:
    """What was begun and neither completed nor aborted below a prefix."""
    fs, path = urls.remote(url)
    bucket, prefix, _ = fs.split_path(path)
    found = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix).get("Uploads", [])
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("fault", ["503", "500", "reset", "reset upload", "lost"])
@pytest.mark.parametrize(("method", "query"), [("POST", "uploads"), ("PUT", "partNumber=2"), ("POST", "uploadId")])
def test_each_step_of_an_upload_in_parts_survives(
    place: str, proxy: FaultyS3, large: Path, fault: Fault, method: str, query: str
) -> None:
    proxy.spoil(fault, 2, method, query)
    storage.publish(large, storage.join(place, "x"))
    assert proxy.spoilt[fault] == 2
    proxy.soothe()
    assert storage.read_bytes(storage.join(place, "x")) == large.read_bytes()


@pytest.mark.parametrize("query", ["partNumber=1", "partNumber=3", "uploadId"])
def test_an_upload_refused_in_the_middle_publishes_nothing_and_is_aborted(
    place: str, proxy: FaultyS3, large: Path, query: str
) -> None:
    url = storage.join(place, "x")
    storage.write_bytes(url, b"old")
    proxy.spoil("403", 1, "POST" if query == "uploadId" else "PUT", query)
    with pytest.raises(UserError, match="check the credentials"):
        storage.publish(large, url)
    assert proxy.spoilt["403"] == 1
    assert storage.read_bytes(url) == b"old"
    assert uploads(place) == []


@pytest.mark.parametrize("same", [True, False])
def test_a_finished_upload_whose_answer_was_lost_is_recognised_by_its_bytes(
    place: str, proxy: FaultyS3, large: Path, same: bool
) -> None:
    url = storage.join(place, "x")
    if same:  # done, the answer lost, and the second try is told that there is no such upload
        proxy.spoil("lost", 1, "POST", "uploadId", then=("404",))
        storage.publish(large, url)
        assert proxy.spoilt == {"lost": 1, "404": 1}
        assert storage.read_bytes(url) == large.read_bytes()
    else:  # somebody aborted it: nothing is there, and nothing is claimed
        proxy.spoil("404", 1, "POST", "uploadId")
        with pytest.raises(UserError, match="cannot write"):
            storage.publish(large, url)
        assert not storage.exists(url)


def test_a_marker_of_another_writer_is_seen_at_once_under_faults(place: str, proxy: FaultyS3) -> None:
    import boto3

    storage.write_bytes(storage.join(place, "earlier"), b"1")
    assert storage.listdir(place) == ["earlier"]  # which a cache would keep
    assert not storage.exists(storage.join(place, "marker"))
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    boto3.client("s3", endpoint_url=proxy.endpoint).put_object(Bucket=bucket, Key=f"{prefix}/marker", Body=b"1")
    proxy.spoil("503", 2)
    assert storage.exists(storage.join(place, "marker"))
    assert storage.listdir(place) == ["earlier", "marker"]


KILLED = """
import os, signal, sys
import s3fs.core
from syncclip import storage
s3fs.core.calculate_chunksize = lambda size, chunksize: 5 << 20
call = s3fs.S3FileSystem._call_s3
async def die_at_the_last_part(self, method, *args, **kwargs):
    if method == "upload_part" and kwargs["PartNumber"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return await call(self, method, *args, **kwargs)
s3fs.S3FileSystem._call_s3 = die_at_the_last_part
storage.publish(sys.argv[1], sys.argv[2])
"""


def test_what_a_killed_writer_uploaded_is_never_seen_and_swept_when_old(
    place: str, proxy: FaultyS3, large: Path
) -> None:
    url = storage.join(place, "x")
    environment = {**os.environ, "AWS_ENDPOINT_URL_S3": proxy.endpoint}
    done = subprocess.run([sys.executable, "-c", KILLED, str(large), url], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert storage.listdir(place) == []
    assert len(uploads(place)) == 1
    assert storage.sweep(place, older_than=3e9) == 0  # it may still be at work (the server dates all uploads 2010)
    assert storage.sweep(f"{place}-other") == 0
    assert storage.sweep(place) == 1
    assert uploads(place) == []


def test_a_store_that_is_busy_for_good_is_told_in_one_sentence(place: str, proxy: FaultyS3) -> None:
    storage.write_bytes(storage.join(place, "x"), b"old")
    proxy.spoil("500", 10_000)
    with pytest.raises(UserError, match=r"cannot write .*/x: .*InternalError.*; check the network") as told:
        storage.write_bytes(storage.join(place, "x"), b"new")
    assert "\n" not in str(told.value)
    proxy.soothe()
    assert storage.read_bytes(storage.join(place, "x")) == b"old"


def test_a_store_that_never_answers_is_told_in_one_sentence(
    place: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"read_timeout": 0.2, "retries": {"total_max_attempts": 1}}
    monkeypatch.setitem(current().options, "config_kwargs", quick)
    proxy.spoil("hang", 10_000)
    with pytest.raises(storage.UnreachableError, match="cannot read .*; check the network"):
        storage.read_bytes(storage.join(place, "x"))


def test_a_refused_connection_is_told_in_one_sentence(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setitem(current().options, "endpoint_url", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(storage.UnreachableError, match=r"cannot list .*connect.*; check the network"):
            storage.sizes(place)


def test_wrong_credentials_are_told_in_one_sentence(place: str, proxy: FaultyS3) -> None:
    for call in (storage.listdir, storage.read_bytes, storage.remove, lambda url: storage.write_bytes(url, b"1")):
        proxy.spoil("403", 10)
        with pytest.raises(UserError, match=r"cannot \w+ .*; check the credentials and whether they permit to \w+$"):
            call(place)
        assert len(proxy.seen) <= 2  # trying again would not help, and could lock an account


def test_a_missing_right_is_told_by_its_name(place: str, proxy: FaultyS3) -> None:
    proxy.spoil("403", 1, "PUT")
    with pytest.raises(UserError, match=r"cannot write .*when calling the PutObject operation"):
        storage.write_bytes(storage.join(place, "x"), b"1")


def test_an_absent_bucket_is_told_in_one_sentence(behind: tuple[str, FaultyS3]) -> None:
    with pytest.raises(UserError, match=r"cannot write s3://absent/x: not found; check the bucket's name"):
        storage.write_bytes("s3://absent/x", b"1")
    with pytest.raises(UserError, match=r"cannot write s3://Not A Bucket/x: .*bucket"):
        storage.write_bytes("s3://Not A Bucket/x", b"1")


def test_the_endpoint_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    with s3_server() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        boto3.client("s3").create_bucket(Bucket="named-outside")
        with Session(options={"skip_instance_cache": True}):
            storage.write_bytes("s3://named-outside/x", b"1")
            assert storage.sizes("s3://named-outside") == {"x": 1}


def test_a_defect_of_ours_is_not_explained_away(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), retries.user_errors("s3://bucket/x", "write"):
        print(1 / 0)
    with pytest.raises(OSError, match="of nothing"), retries.user_errors(str(tmp_path), "read"):
        raise OSError("of nothing that a system says")
    said = pytest.raises(UserError, match="cannot read .*: Input/output error; check the disk")
    with said, retries.user_errors(str(tmp_path), "read"):
        raise OSError(errno.EIO, "Input/output error")


class Silent:
    """A store that never answers the first read; fsspec ends the wait after `timeout`."""

    async_impl = True
    forgotten = 0

    def __init__(self) -> None:
        self.waits: list[float] = []

    @classmethod
    def clear_instance_cache(cls) -> None:
        cls.forgotten += 1

    def cat_file(self, path: str, start: int | None, end: int | None, timeout: float) -> bytes:
        self.waits.append(timeout)
        if len(self.waits) == 1:
            raise FSTimeoutError
        return DATA


def test_a_read_that_is_never_answered_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Silent()
    monkeypatch.setattr(retries, "remote", lambda url: (store, url))
    assert storage.read_bytes("s3://bucket/x") == DATA
    assert store.waits == [retries.SILENCE] * 2
    assert Silent.forgotten == 1


def _forget(url: str) -> None:
    """In a forked process: use the store, and let go of whatever came from the parent."""
    assert storage.exists(url)
    gc.collect()


def test_a_forked_process_takes_no_answer_from_its_parent(
    place: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(current().options, "config_kwargs", {"read_timeout": 20})  # then it would ask again
    url = storage.join(place, "x")
    storage.write_bytes(url, DATA)
    child = multiprocessing.get_context("fork").Process(target=_forget, args=(url,))
    child.start()
    child.join()
    assert child.exitcode == 0
    proxy.seen.clear()
    assert storage.sizes(place) == {"x": len(DATA)}
    assert len(proxy.seen) == 1
