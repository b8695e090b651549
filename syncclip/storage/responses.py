"""Verification of S3 responses; a corrupt response triggers a retry.

Only whole objects with a stored checksum are verified by botocore. This module also verifies other whole objects (if
the `ETag` is an MD5 checksum), byte ranges (by the `Content-Range`) and listings (by the number of keys). All other
objects are read until several responses agree; see `require_agreement`.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import re
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import IO, Any

from syncclip.core.session import current

AGREEING = 3
"""Number of identical responses required if an `ETag` does not match; for later objects in the same bucket, two."""
TRIES = 9
"""Maximum number of responses to compare."""
PART_MIB = (5, 8, 10, 16, 25, 32, 50, 64, 100, 128)
"""Usual part sizes of multipart uploads in MiB, such as 8 (AWS CLI, boto3) and 50 (s3fs)."""
SHIFT = 64
"""Number of additional bytes in the second request for a byte range."""

_md5 = partial(hashlib.md5, usedforsecurity=False)

_FIELDS = {
    "HeadObject": "ETag",
    "GetObject": "ETag",
    "PutObject": "ETag",
    "CreateMultipartUpload": "UploadId",
    "UploadPart": "ETag",
    "CompleteMultipartUpload": "ETag",
    "ListObjectsV2": "IsTruncated",
}
"""Mapping from each operation to a field that every valid response contains."""

before_send: ContextVar[Callable[[], None] | None] = ContextVar("before send", default=None)
"""Function to call before each request is sent or repeated; it may raise an exception."""


class ObjectBytes(bytes):
    """Bytes from an object, with metadata about the whole object."""

    total: int
    """Size of the object in bytes."""
    tag: str
    """ETag of the object."""
    verified: bool
    """Whether the bytes were verified against a checksum."""


def corrupt(message: str) -> Exception:
    """Return an error that triggers a retry, just as a broken connection does."""
    parsers = importlib.import_module("botocore.parsers")  # the driver may not be installed
    error: Exception = parsers.ResponseParserError(message)
    return error


def watch(client: Any) -> None:
    """Verify all responses to an S3 client; idempotent."""
    client.meta.events.register("before-call.s3.GetObject", _remember_range, unique_id="syncclip-range")
    client.meta.events.register("after-call.s3", _verify, unique_id="syncclip-verify")
    client.meta.events.register("before-send.s3", _before_send, unique_id="syncclip-before-send")


def require_agreement(url: str, request: Callable[[], tuple[str, bool]]) -> None:
    """Repeat a request until a response is verified or several responses are identical.

    Args:
        url: URL of the object.
        request: function that sends the request, and returns the response's checksum and whether it was verified.
    """
    counts: Counter[str] = Counter()
    bucket, untagged = "/".join(url.split("/")[:3]), current().untagged_buckets
    while counts.total() < TRIES:
        fingerprint, verified = request()
        counts[fingerprint] += 1
        if verified:
            return
        if counts[fingerprint] >= (2 if bucket in untagged else AGREEING):
            untagged.add(bucket)
            return
    raise corrupt(f"too few of {TRIES} responses agree")


def matches_tag(md5: Any, tag: str, file: IO[bytes]) -> bool:
    """Return whether an ETag matches a file with this MD5 checksum, uploaded whole or in parts of a usual size."""
    if (match := re.fullmatch(r"[0-9a-f]{32}-(\d+)", tag)) is None:
        return bool(tag == md5.hexdigest())
    count, size = int(match[1]), file.seek(0, os.SEEK_END)

    def parts(length: int) -> bytes:
        file.seek(0)
        return b"".join(_md5(file.read(length)).digest() for _ in range(count))

    lengths = [mib << 20 for mib in PART_MIB if -(-size // (mib << 20)) == count > 1]
    candidates = (md5.digest() if count == 1 else b"", *map(parts, lengths))
    return any(tag == f"{_md5(digests).hexdigest()}-{count}" for digests in candidates)


def _remember_range(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    context["syncclip-range"] = params["headers"].get("Range")


def _before_send(**_: Any) -> None:
    if (check := before_send.get()) is not None:
        check()


def _verify(http_response: Any, parsed: dict[str, Any], model: Any, context: dict[str, Any], **_: Any) -> None:
    """Raise an error for a corrupt response; an object's body is verified when it is read."""
    if http_response.status_code >= 300:
        return
    if (field := _FIELDS.get(model.name)) is not None and field not in parsed:
        raise corrupt(f"the response to {model.name} has no {field}")
    if model.name == "GetObject":
        parsed["Body"] = _Body(parsed["Body"], parsed, context["syncclip-range"])
    elif model.name == "ListObjectsV2":
        contents = parsed.get("Contents", [])
        keys = [item.get("Key") for item in contents]
        keys += [item.get("Prefix") for item in parsed.get("CommonPrefixes", [])]
        if len(keys) < parsed.get("KeyCount", 0) or ("NextContinuationToken" in parsed) != parsed["IsTruncated"]:
            raise corrupt("a listing is incomplete")
        if not all(isinstance(key, str) and key.startswith(parsed.get("Prefix", "")) for key in keys):
            raise corrupt("a listing contains keys with a different prefix")
        if not all("Size" in item for item in contents):
            raise corrupt("a listing contains objects without sizes")


class _Body:
    """An object's body, which is verified if it is read in one call."""

    def __init__(self, body: Any, parsed: dict[str, Any], requested: str | None) -> None:
        self._body, self._parsed, self._requested = body, parsed, requested

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    async def read(self, amount: int | None = None) -> bytes:
        data = await self._body.read(amount)
        return data if amount is not None else self._verify(data)

    def _verify(self, data: bytes) -> ObjectBytes:
        content = ObjectBytes(data)
        content.tag, content.total, content.verified = str(self._parsed["ETag"]).strip('"'), len(data), False
        if self._requested is None:
            by_client = hasattr(self._body, "checksum")  # botocore has verified it
            content.verified = by_client or matches_tag(_md5(data), content.tag, io.BytesIO(data))
            return content
        content_range = self._parsed.get("ContentRange", "")
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self._requested)
        returned = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range)
        if requested is None or returned is None:
            raise corrupt(f"the response to {self._requested} has the range {content_range!r}")
        first, last, content.total = map(int, returned.groups())
        end = min(int(requested[2] or content.total), content.total - 1)
        if (first, last, len(data)) != (int(requested[1]), end, end - int(requested[1]) + 1):
            raise corrupt(f"the response to {self._requested} has {len(data)} bytes, {content_range}")
        return content
