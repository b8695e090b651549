"""A real S3 server of this machine, with or without a proxy that spoils requests, for tests of storage."""

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

from syncclip import storage
from tests.worlds.faulty_s3 import FaultyS3, faulty_s3

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@functools.cache
def _endpoint() -> str:
    """The address of this process's S3 server, which runs until the process ends: stopping one takes half a second.

    moto looks up an upload in one moment and completes or aborts it in another, with its threads between the two, and
    answers 500 if there is none; S3 does both at once, and answers 404.
    """
    one_at_a_time = threading.Lock()

    def at_once(call: Callable[..., Any]) -> Callable[..., Any]:
        def locked(*given: Any, **named: Any) -> Any:
            with one_at_a_time:
                try:
                    return call(*given, **named)
                except KeyError as missing:  # which moto answers with 500
                    raise NoSuchUpload(upload_id=missing.args[0]) from missing

        return locked

    S3Backend.complete_multipart_upload = at_once(S3Backend.complete_multipart_upload)  # type: ignore[method-assign]
    S3Backend.upload_part = at_once(S3Backend.upload_part)  # type: ignore[method-assign]
    S3Backend.abort_multipart_upload = at_once(S3Backend.abort_multipart_upload)  # type: ignore[method-assign]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return "http://{}:{}".format(*server.get_host_and_port())


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server, with credentials for it in the environment as long as the block lasts."""
    s3fs.S3FileSystem.clear_instance_cache()  # a connection keeps the credentials that it was made with
    with mock.patch.dict(os.environ, ENVIRONMENT):
        yield _endpoint()


@contextlib.contextmanager
def s3_bucket(name: str = "bucket") -> Iterator[str]:
    """`s3://NAME`, empty, as long as the block lasts; storage is configured for it."""
    with s3_server() as endpoint, _bucket(name, endpoint, endpoint) as url:
        yield url


@contextlib.contextmanager
def faulty_bucket(name: str = "bucket") -> Iterator[tuple[str, FaultyS3]]:
    """The same behind a proxy that spoils what it is told to."""
    with s3_server() as endpoint, faulty_s3(endpoint) as proxy, _bucket(name, endpoint, proxy.endpoint) as url:
        yield url, proxy


@contextlib.contextmanager
def _bucket(name: str, server: str, endpoint: str) -> Iterator[str]:
    import boto3

    bucket = boto3.resource("s3", endpoint_url=server).Bucket(name)
    bucket.create()
    storage.configure({"endpoint_url": endpoint})
    try:
        yield f"s3://{name}"
    finally:
        storage.configure({})
        # The server stays, and the next test would find it.
        bucket.objects.delete()
        bucket.delete()
