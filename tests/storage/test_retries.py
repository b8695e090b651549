"""Faults of an S3 server: transient ones are retried, others are one-line errors; no write is left half done."""

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

pytestmark = [pytest.mark.fault, pytest.mark.usefixtures("short_pauses")]

DATA = bytes(range(256)) * 1200
"""Long enough to be interrupted in the middle."""
PART = 5 << 20
"""Minimum size of a part on S3."""


@pytest.fixture
def proxy(faulty: tuple[str, FaultyS3], folder: str) -> FaultyS3:
    return faulty[1]


@pytest.mark.parametrize("fault", PASSING)
def test_transient_faults_are_retried(folder: str, proxy: FaultyS3, fault: Fault) -> None:
    url = storage.join(folder, "x")
    proxy.spoil(fault, 2, "PUT")
    storage.write_bytes(url, DATA)
    assert proxy.spoilt[fault]
    proxy.spoil(fault, 2)
    assert storage.read_bytes(url) == DATA
    proxy.spoil(fault, 2)
    assert storage.sizes(folder) == {"x": len(DATA)}
    proxy.spoil(fault, 2)
    assert storage.read_many([url, url + "y"]) == {url: DATA}
    proxy.spoil(fault, 1)
    storage.remove(url)
    proxy.soothe()
    assert not storage.exists(url)


@pytest.mark.parametrize(("fault", "method"), [("429", "PUT"), ("500", "GET"), ("reset", "PUT"), ("reset", "GET")])
def test_more_faults_than_the_retries_of_one_library_are_survived(
    folder: str, proxy: FaultyS3, fault: Fault, method: str
) -> None:
    url = storage.join(folder, "x")
    storage.write_bytes(url, b"old")
    proxy.spoil(fault, 8, method)
    if method == "PUT":
        storage.write_bytes(url, DATA)
    else:
        assert storage.read_bytes(url) == b"old"
    assert proxy.spoilt[fault] == 8
    proxy.soothe()
    assert storage.read_bytes(url) == (DATA if method == "PUT" else b"old")


def test_an_interrupted_download_is_repeated(folder: str, proxy: FaultyS3, tmp_path: Path) -> None:
    url = storage.join(folder, "x")
    storage.write_bytes(url, DATA)
    for fault in ("reset answer", "slow"):
        proxy.spoil(fault, 3, "GET")
        storage.fetch(url, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == DATA
        assert proxy.spoilt[fault]


def test_interrupted_parts_of_a_download_are_repeated(
    folder: str, proxy: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = storage.join(folder, "x")
    storage.write_bytes(url, DATA)
    monkeypatch.setitem(current().options, "default_block_size", len(DATA) // 3)
    monkeypatch.setattr(downloads, "PIECE", len(DATA) // 3 + 1)
    for _ in range(2):  # a client that kept broken connections would have none left
        proxy.spoil("reset answer", 6, "GET")
        storage.fetch(url, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == DATA
        assert len([line for line in proxy.seen if line.startswith("GET")]) == 6 + 3
        proxy.spoil("reset answer", 6, "GET")
        assert storage.read_bytes(url) == DATA
        assert proxy.spoilt["reset answer"] == 6


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is uploaded in three parts."""
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize: PART)
    (tmp_path / "large").write_bytes(os.urandom(2 * PART + 1000))
    return tmp_path / "large"


def uploads(url: str) -> list[Any]:
    """List the incomplete uploads below a prefix."""
    fs, path = urls.remote(url)
    bucket, prefix, _ = fs.split_path(path)
    return [*fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix).get("Uploads", [])]


@pytest.mark.parametrize("fault", ["503", "500", "reset", "reset upload", "lost"])
@pytest.mark.parametrize(("method", "query"), [("POST", "uploads"), ("PUT", "partNumber=2"), ("POST", "uploadId")])
def test_each_step_of_an_upload_in_parts_is_retried(
    folder: str, proxy: FaultyS3, large: Path, fault: Fault, method: str, query: str
) -> None:
    proxy.spoil(fault, 2, method, query)
    storage.publish(large, storage.join(folder, "x"))
    assert proxy.spoilt[fault] == 2
    proxy.soothe()
    assert storage.read_bytes(storage.join(folder, "x")) == large.read_bytes()


@pytest.mark.parametrize("query", ["partNumber=1", "partNumber=3", "uploadId"])
def test_an_upload_that_is_denied_midway_is_aborted(folder: str, proxy: FaultyS3, large: Path, query: str) -> None:
    url = storage.join(folder, "x")
    storage.write_bytes(url, b"old")
    proxy.spoil("403", 1, "POST" if query == "uploadId" else "PUT", query)
    with pytest.raises(UserError, match="check the credentials"):
        storage.publish(large, url)
    assert proxy.spoilt["403"] == 1
    assert storage.read_bytes(url) == b"old"
    assert uploads(folder) == []


@pytest.mark.parametrize("same", [True, False])
def test_a_completed_upload_whose_response_was_lost_is_recognised_by_its_bytes(
    folder: str, proxy: FaultyS3, large: Path, same: bool
) -> None:
    url = storage.join(folder, "x")
    if same:  # the response was lost, and the retry returns 404
        proxy.spoil("lost", 1, "POST", "uploadId", then=("404",))
        storage.publish(large, url)
        assert proxy.spoilt == {"lost": 1, "404": 1}
        assert storage.read_bytes(url) == large.read_bytes()
    else:  # another process aborted the upload
        proxy.spoil("404", 1, "POST", "uploadId")
        with pytest.raises(UserError, match="cannot write"):
            storage.publish(large, url)
        assert not storage.exists(url)


KILLED = """
import os, signal, sys
import s3fs.core
from syncclip import storage
s3fs.core.calculate_chunksize = lambda size, chunksize: 5 << 20
call = s3fs.S3FileSystem._call_s3
async def kill_at_last_part(self, method, *args, **kwargs):
    if method == "upload_part" and kwargs["PartNumber"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return await call(self, method, *args, **kwargs)
s3fs.S3FileSystem._call_s3 = kill_at_last_part
storage.publish(sys.argv[1], sys.argv[2])
"""


def test_an_upload_of_a_killed_writer_is_invisible_and_swept_when_old(
    folder: str, proxy: FaultyS3, large: Path
) -> None:
    url = storage.join(folder, "x")
    environment = {**os.environ, "AWS_ENDPOINT_URL_S3": proxy.endpoint}
    done = subprocess.run([sys.executable, "-c", KILLED, str(large), url], env=environment)
    assert done.returncode == -signal.SIGKILL
    assert storage.listdir(folder) == []
    assert len(uploads(folder)) == 1
    assert storage.sweep(folder, older_than=3e9) == 0  # the server dates all uploads 2010
    assert storage.sweep(f"{folder}-other") == 0
    assert storage.sweep(folder) == 1
    assert uploads(folder) == []


def test_a_store_that_stays_busy_is_a_one_line_error(folder: str, proxy: FaultyS3) -> None:
    storage.write_bytes(storage.join(folder, "x"), b"old")
    proxy.spoil("500", 10_000)
    with pytest.raises(UserError, match=r"cannot write .*/x: .*InternalError") as caught:
        storage.write_bytes(storage.join(folder, "x"), b"new")
    assert "\n" not in str(caught.value)
    proxy.soothe()
    assert storage.read_bytes(storage.join(folder, "x")) == b"old"


def test_a_store_that_never_responds_is_unreachable(
    folder: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"read_timeout": 0.2, "retries": {"total_max_attempts": 1}}
    monkeypatch.setitem(current().options, "config_kwargs", quick)
    monkeypatch.setattr(retries, "PAUSES", (0.01,))
    proxy.spoil("hang", 10_000)
    with pytest.raises(storage.UnreachableError, match="cannot read .*"):
        storage.read_bytes(storage.join(folder, "x"))


def test_a_refused_connection_is_a_one_line_error(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # does not listen
        monkeypatch.setitem(current().options, "endpoint_url", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(storage.UnreachableError, match=r"cannot list .*connect"):
            storage.sizes(folder)


def test_wrong_credentials_are_a_one_line_error_without_retries(folder: str, proxy: FaultyS3) -> None:
    for call in (storage.listdir, storage.read_bytes, storage.remove, lambda url: storage.write_bytes(url, b"1")):
        proxy.spoil("403", 10)
        with pytest.raises(UserError, match=r"cannot \w+ .*; check the credentials and their permission to \w+$"):
            call(folder)
        assert len(proxy.seen) <= 2  # retries could lock an account


def test_a_missing_bucket_is_a_one_line_error(faulty: tuple[str, FaultyS3]) -> None:
    with pytest.raises(UserError, match=r"cannot write s3://absent/x: not found; check the bucket's name"):
        storage.write_bytes("s3://absent/x", b"1")
    assert not storage.exists("s3://absent")
    with pytest.raises(UserError, match=r"cannot write s3://Not A Bucket/x: .*bucket"):
        storage.write_bytes("s3://Not A Bucket/x", b"1")


def test_the_endpoint_may_be_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    with s3_server() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        boto3.client("s3").create_bucket(Bucket="from-environment")
        with Session(options={"skip_instance_cache": True}):
            storage.write_bytes("s3://from-environment/x", b"1")
            assert storage.sizes("s3://from-environment") == {"x": 1}


def test_bugs_are_not_reported_as_user_errors(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), retries.user_errors("s3://bucket/x", "write"):
        print(1 / 0)
    with pytest.raises(OSError, match="without a number"), retries.user_errors(str(tmp_path), "read"):
        raise OSError("without a number")
    reported = pytest.raises(UserError, match="cannot read .*: Input/output error")
    with reported, retries.user_errors(str(tmp_path), "read"):
        raise OSError(errno.EIO, "Input/output error")


class Silent:
    """A store whose first read exceeds fsspec's timeout."""

    async_impl = True
    cleared = 0

    def __init__(self) -> None:
        self.waits: list[float] = []

    @classmethod
    def clear_instance_cache(cls) -> None:
        cls.cleared += 1

    def cat_file(self, path: str, start: int | None, end: int | None, timeout: float) -> bytes:
        self.waits.append(timeout)
        if len(self.waits) == 1:
            raise FSTimeoutError
        return DATA


def test_a_read_that_times_out_is_repeated_with_a_new_client(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Silent()
    monkeypatch.setattr(retries, "remote", lambda url: (store, url))
    assert storage.read_bytes("s3://bucket/x") == DATA
    assert store.waits == [retries.SILENCE] * 2
    assert Silent.cleared == 1


def _collect(url: str) -> None:
    """In a forked process: use the store, and collect objects of the parent."""
    assert storage.exists(url)
    gc.collect()


def test_a_forked_process_does_not_receive_responses_for_its_parent(
    folder: str, proxy: FaultyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        current().options, "config_kwargs", {"read_timeout": 20}
    )  # a missed response would cause a retry
    url = storage.join(folder, "x")
    storage.write_bytes(url, DATA)
    child = multiprocessing.get_context("fork").Process(target=_collect, args=(url,))
    child.start()
    child.join()
    assert child.exitcode == 0
    proxy.seen.clear()
    assert storage.sizes(folder) == {"x": len(DATA)}
    assert len(proxy.seen) == 1
