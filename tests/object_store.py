"""A real S3 server of this machine, for tests of what storage promises on an object store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from unittest import mock

from moto.server import ThreadedMotoServer

from syncclip import storage

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextlib.contextmanager
def s3_bucket(name: str = "bucket") -> Iterator[str]:
    """`s3://NAME` on a server that lives as long as the block; storage is configured for it."""
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    try:
        with mock.patch.dict(os.environ, ENVIRONMENT):
            boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
            storage.configure({"endpoint_url": endpoint})
            yield f"s3://{name}"
    finally:
        storage.configure({})
        server.stop()
