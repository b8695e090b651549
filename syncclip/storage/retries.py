"""Handling of storage errors: retries after transient errors, one-line messages for errors that users can fix."""

from __future__ import annotations

import errno
import logging
import random
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from syncclip.core.settings import UserError
from syncclip.core.text import cut, install_command, printable
from syncclip.storage.urls import is_local, is_web, remote

PAUSES = (1.0, 4.0, 15.0)
"""Maximum pauses between attempts, in seconds; each attempt includes retries by the store's client."""

SILENCE = 240.0
"""Read timeout in seconds, since some clients have none; after a timeout, the read is retried with a new client."""

BUSY = frozenset({429, 500, 502, 503, 504})
"""HTTP status codes of transient errors."""
TORN = (
    "ClientPayloadError",
    "IncompleteRead",
    "ServerDisconnectedError",
    "ConnectionClosedError",
    "ResponseParserError",
    "FSTimeoutError",
    "FlexibleChecksumError",
    "DelayedError",
)
GARBLED = frozenset({"BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"})
"""Error codes returned by a store that received a corrupt request."""
SILENT = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "HTTPClientError")
"""Names of error classes in botocore, aiohttp and fsspec, as in `TORN`; these packages may not be installed."""

FULL = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "no space left",
    errno.EFBIG: "the file would exceed the size limit",
    errno.EROFS: "the file system is read-only",
}

AGAIN = "secrets in storage.options are not stored with results and must be set again"

log = logging.getLogger(__name__)
T = TypeVar("T")


class MissingError(UserError, FileNotFoundError):
    """Raised if a required file is missing."""


class UnreachableError(UserError):
    """Raised if a store does not respond or repeatedly returns errors; a later attempt may succeed."""


def with_retries(url: str, call: Callable[[Any, str], T]) -> T:
    """Call a function, with up to `len(PAUSES)` retries after transient errors.

    Args:
        url: URL of a remote file or folder.
        call: idempotent function that takes a file system and a path.
    """
    for pause in PAUSES:
        fs, path = remote(url)
        try:
            return call(fs, path)
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("retrying: %s", _line(error))
            if http_status(error) is None:  # the client may keep a broken connection
                type(fs).clear_instance_cache()
        time.sleep(pause * random.uniform(0.5, 1.0))
    return call(*remote(url))


def is_transient(error: BaseException) -> bool:
    """Return whether an error is transient, such as a busy store or a broken connection."""
    if _response(error).get("Error", {}).get("Code") in GARBLED or http_status(error) in BUSY:
        return True
    return any(type(cause).__name__ in TORN or _unparsed(cause) for cause in _causes(error))


def _unparsed(error: BaseException) -> bool:
    """Return whether the store's client failed to parse a response, e.g. because of a corrupt number or date."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == "botocore.parsers" for frame in frames)


@contextmanager
def user_errors(url: str, verb: str) -> Iterator[None]:
    """Convert errors that users can fix into one-line user errors; all other errors are raised unchanged."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (explanation := _explanation(error, url, verb)) is None:
            raise
        raise explanation from error


def _explanation(error: Exception, url: str, verb: str) -> UserError | None:
    """Return a one-line user error, or None if the error is a bug."""
    cannot, local = f"cannot {verb} {url}", is_local(url)
    if isinstance(error, FileNotFoundError) or (isinstance(error, NotADirectoryError) and verb == "read"):
        remedy = "check the bucket's name" if verb == "write" and not local else "check the path"
        return MissingError(f"{cannot}: not found; {remedy}")
    names = {base.__name__ for cause in _causes(error) for base in type(cause).__mro__}
    if not local and (is_transient(error) or names.intersection(SILENT)):
        return UnreachableError(
            f"{cannot}: {_line(error)}; check the network and storage.options.endpoint_url, or try again later; "
            "committed work is kept"
        )
    if isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)):
        remedy = f"{AGAIN}; check the credentials and their permission to {verb}"
        remedy = f"choose a location that you have permission to {verb}" if local else remedy
        return UserError(f"{cannot}: {error.strerror or _line(error) or 'not allowed'}; {remedy}")
    if isinstance(error, ImportError):
        group = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}.get(url.partition("://")[0])
        extra = f"run `{install_command(group)}`" if group else "install the fsspec driver for this URL scheme"
        return UserError(f"{cannot}: {_line(error)}; {extra}")
    if isinstance(error, OSError) and error.errno in FULL:
        return UserError(f"{cannot}: {FULL[error.errno]}; choose a different location or free up some space")
    if is_web(url) and http_status(error) is not None:
        return UserError(
            f"{cannot}: the server returned {http_status(error)}; check the URL, and whether it requires a login"
        )
    for sign, remedy in _REMEDIES.items():
        if any(sign in f"{name}: {error}" for name in names):
            secrets = f"{AGAIN}; " if sign.startswith("Credential") else ""
            return UserError(f"{cannot}: {_line(error)}; {secrets}{remedy}")
    if isinstance(error, OSError) and not local:
        return UserError(f"{cannot}: {_line(error)}; check the URL and storage.options")
    if isinstance(error, OSError) and error.errno not in (None, errno.ELOOP):  # EIO, ESTALE, ENAMETOOLONG, ENXIO, …
        return UserError(f"{cannot}: {error.strerror or _line(error)}; check the disk, or choose a different path")
    return None


_REMEDIES = {
    "CredentialsError": "set the credentials in the environment, or set storage.options.anon=true for a public bucket",
    "CredentialRetrievalError": "set the credentials in the environment, or renew them",
    "ParamValidationError": "check the bucket's name",
    "ProfileNotFound": "check AWS_PROFILE, or storage.options.profile",
    "Protocol not known": "use a path or a URL such as s3://bucket/folder",
}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _with_response(error: BaseException) -> Any:
    """Return the botocore error that contains the store's response, or None if there is no response."""
    return next((cause for cause in _causes(error) if isinstance(getattr(cause, "response", None), dict)), None)


def _response(error: BaseException) -> dict[str, Any]:
    return getattr(_with_response(error), "response", {})


def http_status(error: BaseException) -> int | None:
    """Return the HTTP status code in a store's or web server's response, or None if there is no response."""
    if _with_response(error) is not None:
        status: int | None = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status
    statuses = (getattr(cause, "status", None) for cause in _causes(error))
    return next((status for status in statuses if isinstance(status, int)), None)


def _line(error: BaseException) -> str:
    """Return an error's message on one line."""
    return cut(printable(" ".join(str(_with_response(error) or error).split())))
