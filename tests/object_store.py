"""A local S3 server, with or without a proxy that injects faults."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import s3fs
from moto.s3.exceptions import NoSuchUpload
from moto.s3.models import S3Backend
from moto.server import ThreadedMotoServer

from syncclip.core.session import Session
from tests.worlds.faulty_s3 import FaultyS3, faulty_s3

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@functools.cache
def _endpoint() -> str:
    """Return the address of this process's S3 server, which runs until the process ends.

    In moto, finding an upload and completing or aborting it is not atomic, and a missing upload returns 500. S3 is
    atomic and returns 404.
    """
    lock = threading.Lock()

    def atomic(call: Callable[..., Any]) -> Callable[..., Any]:
        def locked(*arguments: Any, **keywords: Any) -> Any:
            with lock:
                try:
                    return call(*arguments, **keywords)
                except KeyError as missing:
                    raise NoSuchUpload(upload_id=missing.args[0]) from missing

        return locked

    for name in ("complete_multipart_upload", "upload_part", "abort_multipart_upload"):
        setattr(S3Backend, name, atomic(getattr(S3Backend, name)))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return "http://{}:{}".format(*server.get_host_and_port())


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Set the credentials of the S3 server in the environment; yields its address."""
    s3fs.S3FileSystem.clear_instance_cache()  # clients keep their credentials
    with mock.patch.dict(os.environ, ENVIRONMENT):
        yield _endpoint()


@contextlib.contextmanager
def s3_bucket(name: str = "bucket") -> Iterator[str]:
    """Create the bucket `s3://NAME`, configure storage for it, and delete it at the end of the block."""
    with s3_server() as endpoint, _bucket(name, endpoint, endpoint) as url:
        yield url


@contextlib.contextmanager
def faulty_bucket(name: str = "bucket") -> Iterator[tuple[str, FaultyS3]]:
    """Create a bucket behind a proxy that injects faults; yields its URL and the proxy."""
    with s3_server() as endpoint, faulty_s3(endpoint) as proxy, _bucket(name, endpoint, proxy.endpoint) as url:
        yield url, proxy


@contextlib.contextmanager
def _bucket(name: str, server: str, endpoint: str) -> Iterator[str]:
    import boto3

    bucket = boto3.resource("s3", endpoint_url=server).Bucket(name)
    bucket.create()
    try:
        with Session(options={"endpoint_url": endpoint}):
            yield f"s3://{name}"
    finally:
        bucket.objects.delete()
        bucket.delete()
