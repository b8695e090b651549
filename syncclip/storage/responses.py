"""Verification of S3 responses: one that is flipped, truncated or garbled is an error, and retried.

botocore verifies the body of a whole object with a stored checksum, and nothing else. Here a whole object without one
is verified by its `ETag` if that is an MD5, a byte range by its `Content-Range`, and a listing by its count and order.
What none of these verifies is read until several responses agree, see `agreed`.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from syncclip.core.session import current

AGREEING = 3
"""Equal responses after which bytes that do not match their `ETag` are accepted; two in a bucket with such tags."""
TRIES = 9
"""Responses that are compared before the store counts as unreachable."""
SHIFT = 64
"""Bytes by which the second request of a range differs, so that the same damage does not hit the same position."""

_FIELDS = {
    "HeadObject": "ETag",
    "GetObject": "ETag",
    "PutObject": "ETag",
    "CreateMultipartUpload": "UploadId",
    "UploadPart": "ETag",
    "CompleteMultipartUpload": "ETag",
    "ListObjectsV2": "IsTruncated",
}
"""Operation -> a field that every valid response contains."""

before_send: ContextVar[Callable[[], None] | None] = ContextVar("before send", default=None)
"""Called before each request of the context is sent, also when it is repeated; may raise."""


class Answer(bytes):
    """Bytes of an object, with metadata of the whole."""

    total: int
    """Size of the whole object in bytes."""
    tag: str
    """ETag of the whole object."""
    held: bool
    """Whether a checksum verifies the bytes."""


def corrupt(message: str) -> Exception:
    """Return an error that all layers above treat like a torn connection."""
    parsers = importlib.import_module("botocore.parsers")  # the driver may not be installed
    error: Exception = parsers.ResponseParserError(message)
    return error


def watch(client: Any) -> None:
    """Verify all responses that an S3 client receives from now on; idempotent."""
    client.meta.events.register("before-call.s3.GetObject", _remember_range, unique_id="syncclip-range")
    client.meta.events.register("after-call.s3", _verify, unique_id="syncclip-verify")
    client.meta.events.register("before-send.s3", _before_send, unique_id="syncclip-before-send")


def agreed(url: str, request: Callable[[], tuple[str, bool]]) -> None:
    """Repeat a request until a response is verified, or several are equal.

    Args:
        url: URL of the object.
        request: returns a response's fingerprint, and whether a checksum verifies it.
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
    raise corrupt(f"{TRIES} responses, of which too few agree")


def fits(md5: Any, tag: str) -> bool:
    """Return whether an ETag is that of an object with this MD5, uploaded whole or in one part."""
    return tag in (md5.hexdigest(), f"{hashlib.md5(md5.digest(), usedforsecurity=False).hexdigest()}-1")


def _remember_range(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    context["syncclip-range"] = params["headers"].get("Range")


def _before_send(**_: Any) -> None:
    if (check := before_send.get()) is not None:
        check()


def _verify(http_response: Any, parsed: dict[str, Any], model: Any, context: dict[str, Any], **_: Any) -> None:
    """Raise an error for an invalid response; the body of an object is verified when it is read."""
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
            raise corrupt("a listing has another prefix")
        if not all("Size" in item for item in contents):
            raise corrupt("a listing has no sizes")


class _Body:
    """The body of an object, verified when it is read whole."""

    def __init__(self, body: Any, parsed: dict[str, Any], requested: str | None) -> None:
        self._body, self._parsed, self._requested = body, parsed, requested

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    async def read(self, amount: int | None = None) -> bytes:
        data = await self._body.read(amount)
        return data if amount is not None else self._verified(data)

    def _verified(self, data: bytes) -> Answer:
        answer = Answer(data)
        answer.tag, answer.total, answer.held = str(self._parsed["ETag"]).strip('"'), len(data), False
        if self._requested is None:
            by_client = hasattr(self._body, "checksum")  # while it was read
            answer.held = by_client or fits(hashlib.md5(data, usedforsecurity=False), answer.tag)
            return answer
        content_range = self._parsed.get("ContentRange", "")
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self._requested)
        returned = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range)
        if requested is None or returned is None:
            raise corrupt(f"the response to {self._requested} has the range {content_range!r}")
        first, last, answer.total = map(int, returned.groups())
        end = min(int(requested[2] or answer.total), answer.total - 1)
        if (first, last, len(data)) != (int(requested[1]), end, end - int(requested[1]) + 1):
            raise corrupt(f"the response to {self._requested} has {len(data)} bytes, {content_range}")
        return answer
