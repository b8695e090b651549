"""An S3 server with hundreds of thousands of files, whose listings take as long as they would with a few files."""

from __future__ import annotations

import bisect
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

from moto.s3.models import S3Backend, s3_backends
from moto.server import ThreadedMotoServer


def serve(parent: Connection, bucket_name: str, files: Callable[[], Iterable[tuple[str, bytes]]]) -> None:
    """Serve the files of a bucket, send the server's address to the parent, and then the requests of each kind."""
    counts, names = Counter[str](), list[str]()

    def listing(_: Any, bucket: Any, prefix: str, continuation_token: str | None, max_keys: int, **_others: Any) -> Any:
        start = continuation_token
        first = bisect.bisect_right(names, start) if start else bisect.bisect_left(names, prefix or "")
        page = [name for name in names[first : first + max_keys + 1] if name.startswith(prefix or "")]
        more = len(page) > max_keys
        return [bucket.keys[name] for name in page[:max_keys]], more, page[max_keys - 1] if more else None

    def count(record: logging.LogRecord) -> bool:
        line = record.getMessage()
        counts["pages of listings" if "list-type=2" in line else "reads" if '"GET' in line else "others"] += 1
        return False

    log = logging.getLogger("werkzeug")
    log.addFilter(count)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    backend = s3_backends["123456789012"]["aws"]
    bucket = backend.create_bucket(bucket_name, "us-east-1")
    for name, data in files():
        backend.put_object(bucket_name, name, data)
    names += sorted(bucket.keys)
    with mock.patch.object(S3Backend, "list_objects_v2", listing):
        parent.send("http://{}:{}".format(*server.get_host_and_port()))
        parent.recv()
        parent.send(dict(counts))
