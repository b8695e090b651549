"""What goes wrong on the way to a file: waited for where it passes, one sentence where a user can mend it."""

from __future__ import annotations

import errno
import logging
import random
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from syncclip.core.settings import UserError
from syncclip.core.text import cut, install_command, printable
from syncclip.storage.urls import is_local, is_web, remote

PAUSES = (1.0, 4.0, 15.0)
"""Seconds (at most) between our own tries; the store's client has tried several times in each."""

SILENCE = 240.0
"""Seconds that a read may take before it is repeated with a new client: some wait for an answer for ever."""

BUSY = frozenset({429, 500, 502, 503, 504})
"""HTTP answers that mean: not now."""
TORN = (
    "ClientPayloadError",
    "IncompleteRead",
    "ServerDisconnectedError",
    "ConnectionClosedError",
    "ResponseParserError",
    "FSTimeoutError",
    "FlexibleChecksumError",
)
GARBLED = frozenset({"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"})
"""Refusals of a request that didn't arrive as it was sent."""
SILENT = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "HTTPClientError")
"""botocore's, aiohttp's and fsspec's errors are named, not imported: a driver may not be installed."""

FULL = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "no space left",
    errno.EFBIG: "the file grows larger than is allowed there",
    errno.EROFS: "the file system is read-only",
}

AGAIN = "no results keep secrets of storage.options, which must be given again"

log = logging.getLogger(__name__)
T = TypeVar("T")


class MissingError(UserError, FileNotFoundError):
    """Something that should be there is not."""


class UnreachableError(UserError):
    """A store that does not answer, or keeps refusing; later it may."""


def persistently(url: str, call: Callable[[Any, str], T]) -> T:
    """Call until it works, or fails for a reason that does not pass, or all pauses are used up.

    Args:
        url: a remote file or folder.
        call: a whole read or a whole write, which can be done again; gets the file system and the path in it.
    """
    for pause in PAUSES:
        fs, path = remote(url)
        try:
            return call(fs, path)
        except Exception as error:
            if not passes(error):
                raise
            log.warning("trying again in a moment: %s", _line(error))
            if answered(error) is None:  # no answer: the client may keep a torn connection, and it has ten of them
                type(fs).clear_instance_cache()
        time.sleep(pause * random.uniform(0.5, 1.0))
    return call(*remote(url))


def passes(error: BaseException) -> bool:
    """Whether the same call may work a moment later: a busy store, or a connection torn in the middle."""
    answer: Any = _answer(error)
    code = None if answer is None else answer.response.get("Error", {}).get("Code")
    if code in GARBLED or answered(error) in BUSY:
        return True
    return any(type(cause).__name__ in TORN or _unparsed(cause) for cause in _causes(error))


def _unparsed(error: BaseException) -> bool:
    """Whether an error comes of what the store's client made of an answer, in which a number or a date was garbled."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == "botocore.parsers" for frame in frames)


@dataclass(frozen=True)
class explained(AbstractContextManager[None]):  # noqa: N801  it is used like a function
    """Turn the errors that a user can mend into one sentence; all others pass through."""

    url: str
    verb: str

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            explanation = _explanation(error, self.url, self.verb)
            if explanation is not None:
                raise explanation from error


def _explanation(error: Exception, url: str, verb: str) -> UserError | None:
    """The sentence for an error; None for a defect of ours."""
    cannot, local = f"cannot {verb} {url}", is_local(url)
    if isinstance(error, FileNotFoundError) or (isinstance(error, NotADirectoryError) and verb == "read"):
        remedy = "check the bucket's name" if verb == "write" and not local else "check the path"
        return MissingError(f"{cannot}: it is not there; {remedy}")
    names = {name for cause in _causes(error) for name in (kind.__name__ for kind in type(cause).__mro__)}
    if not local and (passes(error) or names.intersection(SILENT)):
        return UnreachableError(
            f"{cannot}: {_line(error)}; check the network and storage.options.endpoint_url, or try again later: "
            "what is committed stays"
        )
    if isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)):
        where = f"{AGAIN}; check the credentials and whether they may {verb}"
        where = f"choose a place that you may {verb}" if local else where
        return UserError(f"{cannot}: {error.strerror or _line(error) or 'not allowed'}; {where}")
    if isinstance(error, ImportError):
        group = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}.get(url.partition("://")[0])
        extra = f"run `{install_command(group)}`" if group else "install the fsspec driver of its scheme"
        return UserError(f"{cannot}: {_line(error)}; {extra}")
    if isinstance(error, OSError) and error.errno in FULL:
        return UserError(f"{cannot}: {FULL[error.errno]}; choose another place or free some space")
    if is_web(url) and answered(error) is not None:
        return UserError(
            f"{cannot}: the server answered {answered(error)}; check the URL, and whether it asks for a login"
        )
    for sign, remedy in _REMEDIES.items():
        if any(sign in f"{name}: {error}" for name in names):
            again = f"{AGAIN}; " if sign.startswith("Credential") else ""
            return UserError(f"{cannot}: {_line(error)}; {again}{remedy}")
    if isinstance(error, OSError) and not local:
        return UserError(f"{cannot}: {_line(error)}; check the URL and storage.options")
    if isinstance(error, OSError) and error.errno not in (None, errno.ELOOP):  # EIO, ESTALE, ENAMETOOLONG, ENXIO, …
        return UserError(f"{cannot}: {error.strerror or _line(error)}; check the disk and the path, or choose another")
    return None


_REMEDIES = {
    "CredentialsError": "set the credentials in the environment, or storage.options.anon=true for a public bucket",
    "CredentialRetrievalError": "set the credentials in the environment, or renew them",
    "ParamValidationError": "check the bucket's name",
    "ProfileNotFound": "check AWS_PROFILE, or storage.options.profile",
    "Protocol not known": "use a path or a URL such as s3://bucket/folder",
}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _answer(error: BaseException) -> BaseException | None:
    """The error of botocore that holds what the store answered."""
    return next((cause for cause in _causes(error) if isinstance(getattr(cause, "response", None), dict)), None)


def answered(error: BaseException) -> int | None:
    """The HTTP status that the store, or a web server, answered."""
    answer: Any = _answer(error)
    if answer is None:
        statuses = (getattr(cause, "status", None) for cause in _causes(error))
        return next((status for status in statuses if isinstance(status, int)), None)
    status: int | None = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def _line(error: BaseException) -> str:
    """An error's message in one line."""
    return cut(printable(" ".join(str(_answer(error) or error).split())))
