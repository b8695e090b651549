"""What S3 answers, held against what was asked: a flipped, cut or garbled answer is no answer, and asked for again.

A range is held by its `Content-Range`, a listing by its own count and order, a whole object by the checksum that it
was stored with (which the client checks) or its `ETag`, where that is an MD5. What nothing holds is believed once the
store said it several times, see `agreed`.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

AGREEING = 3
"""Equal answers after which bytes are believed that their `ETag` doesn't hold: the object itself is so."""
TRIES = 9
"""Answers that are compared before the store counts as unreachable."""

SHIFT = 64
"""Bytes by which a range is asked for differently the second time, lest the same damage falls on the same place."""

_FIELDS = {
    "HeadObject": "ETag",
    "GetObject": "ETag",
    "PutObject": "ETag",
    "CreateMultipartUpload": "UploadId",
    "UploadPart": "ETag",
    "CompleteMultipartUpload": "ETag",
    "ListObjectsV2": "IsTruncated",
}
"""What every honest answer to a request holds."""

_other_tags: set[str] = set()
"""Buckets whose ETags turned out not to be MD5s."""


class Answer(bytes):
    """Bytes of an object, and what the store said of the whole."""

    total: int
    """Bytes of the whole object."""
    tag: str
    """Its ETag."""
    held: bool
    """Whether a checksum proves the bytes."""


last_look: ContextVar[Callable[[], None] | None] = ContextVar("last look", default=None)
"""Called immediately before each request of the context is sent, also when it is sent again; may raise."""


def spoilt(sentence: str) -> Exception:
    """An error that every layer above takes for a torn answer."""
    parsers = importlib.import_module("botocore.parsers")  # the driver may not be installed
    error: Exception = parsers.ResponseParserError(sentence)
    return error


def watch(client: Any) -> None:
    """Check all answers that a client of S3 gets from now on; again and again does no harm."""
    client.meta.events.register("before-call.s3.GetObject", _remember_range, unique_id="syncclip-range")
    client.meta.events.register("after-call.s3", _check, unique_id="syncclip-check")
    client.meta.events.register("before-send.s3", _look_again, unique_id="syncclip-look")


def agreed(url: str, ask: Callable[[], tuple[str, bool]]) -> None:
    """Ask until an answer is proven, or the same one came several times.

    Args:
        url: of the object.
        ask: gets an answer; returns its fingerprint, and whether a checksum proves it.
    """
    said: Counter[str] = Counter()
    bucket = "/".join(url.split("/")[:3])
    while said.total() < TRIES:
        fingerprint, proven = ask()
        said[fingerprint] += 1
        if proven:
            return
        if said[fingerprint] >= (2 if bucket in _other_tags else AGREEING):
            _other_tags.add(bucket)
            return
    raise spoilt(f"{TRIES} answers, and no two that agree")


def fits(md5: Any, tag: str) -> bool:
    """Whether an ETag is that of an object with this MD5, sent by one request or as an upload of one part."""
    return tag in (md5.hexdigest(), f"{hashlib.md5(md5.digest(), usedforsecurity=False).hexdigest()}-1")


def _remember_range(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    context["syncclip-range"] = params["headers"].get("Range")


def _look_again(**_: Any) -> None:
    if (look := last_look.get()) is not None:
        look()


def _check(http_response: Any, parsed: dict[str, Any], model: Any, context: dict[str, Any], **_: Any) -> None:
    """Refuse an answer that can't be true; the body of an object is checked when it is read."""
    if http_response.status_code >= 300:
        return
    if (needed := _FIELDS.get(model.name)) is not None and needed not in parsed:
        raise spoilt(f"{model.name} was answered without {needed}")
    if model.name == "GetObject":
        parsed["Body"] = _Body(parsed["Body"], parsed, context["syncclip-range"])
    elif model.name == "ListObjectsV2":
        found = [*(one.get("Key") for one in parsed.get("Contents", []))]
        found += [one.get("Prefix") for one in parsed.get("CommonPrefixes", [])]
        goes_on = "NextContinuationToken" in parsed
        if len(found) < parsed.get("KeyCount", 0) or goes_on != parsed["IsTruncated"]:
            raise spoilt("a listing was cut")
        if not all(isinstance(key, str) and key.startswith(parsed.get("Prefix", "")) for key in found):
            raise spoilt("a listing of something else")
        if not all("Size" in one for one in parsed.get("Contents", [])):
            raise spoilt("a listing without sizes")


class _Body:
    """The body of an object, which is checked when it is read whole."""

    def __init__(self, body: Any, parsed: dict[str, Any], asked: str | None) -> None:
        self._body, self._parsed, self._asked = body, parsed, asked

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)

    async def read(self, amount: int | None = None) -> bytes:
        data = await self._body.read(amount)
        return data if amount is not None else self._checked(data)

    def _checked(self, data: bytes) -> Answer:
        answer = Answer(data)
        answer.tag, answer.total, answer.held = str(self._parsed["ETag"]).strip('"'), len(data), False
        if self._asked is None:
            checked = hasattr(self._body, "checksum")  # by the client, while it was read
            answer.held = checked or fits(hashlib.md5(data, usedforsecurity=False), answer.tag)
            return answer
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self._asked)
        given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", self._parsed.get("ContentRange", ""))
        if asked is None or given is None:
            raise spoilt(f"{self._asked} was answered by {self._parsed.get('ContentRange', 'no range')}")
        first, last, answer.total = map(int, given.groups())
        wanted = min(int(asked[2] or answer.total), answer.total - 1)
        if (first, last, len(data)) != (int(asked[1]), wanted, wanted - int(asked[1]) + 1):
            raise spoilt(f"{self._asked} was answered by {len(data)} bytes, {self._parsed['ContentRange']}")
        return answer
