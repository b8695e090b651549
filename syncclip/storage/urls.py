"""Storage paths and URLs, and their file systems."""

from __future__ import annotations

import os
import stat
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
from pydantic import Field

from syncclip.core.secrets import remember_options
from syncclip.core.session import current
from syncclip.core.settings import Settings, UserError
from syncclip.core.text import cut
from syncclip.storage import responses

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "obs", "r2"})
"""URL schemes of object stores, which have no folders; creating a folder could create a bucket with a mistyped name."""
S3 = frozenset({"s3", "s3a"})

CLIENT = {"retries": {"mode": "legacy", "total_max_attempts": 5}, "connect_timeout": 10, "read_timeout": 30}
"""botocore settings for S3: five attempts per request with exponential backoff, on top of up to five retries by s3fs.

The `standard` mode does not retry after HTTP status 429, and gives up earlier if many requests fail.
"""

LONGEST_PATH, LONGEST_NAME = 4096, 255
"""Maximum lengths of a path and a file name on Linux, in bytes."""

_clients: weakref.WeakSet[Any] = weakref.WeakSet()
_inherited: list[Any] = []


class StorageSettings(Settings):
    """Storage location of runs, and its file system options."""

    root: str = "runs"
    """Folder or fsspec URL for runs; a run is stored at <root>/<recipe name>."""
    options: dict[str, Any] = Field(default_factory=dict)
    """fsspec options for remote URLs, such as `endpoint_url` or `anon`."""


def configure(options: Mapping[str, Any]) -> None:
    """Set the current session's fsspec options for remote URLs."""
    remember_options(options)
    session_options = current().options
    session_options.clear()
    session_options.update(options)


def configured() -> dict[str, Any]:
    """Return the current session's fsspec options for remote URLs."""
    return {**current().default_options, **current().options}


def is_local(url: str) -> bool:
    """Return whether `url` is a local path, i.e. has no scheme or begins with `file://` or `local://`."""
    return "://" not in url or url.startswith(("file://", "local://"))


def local_path(url: str) -> Path:
    """Return the path of a local `url`, with `~` expanded as in `home_path`."""
    prefix, _, path = url.rpartition("://")
    assert prefix in ("", "file", "local"), f"{url} is not local"
    return home_path(path)


def home_path(text: str) -> Path:
    """Expand `~` in a path; raise a UserError for an invalid path."""
    try:
        raw = os.fsencode(text)
        if b"\0" not in raw and len(raw) < LONGEST_PATH and max(map(len, raw.split(b"/"))) <= LONGEST_NAME:
            return Path(text).expanduser()
    except (UnicodeError, RuntimeError):  # an unpaired surrogate; the home folder of an unknown user
        pass
    raise UserError(
        f"{cut(text)!r} is not a valid path, since it is too long or contains invalid characters; correct the path"
    )


def open_local(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """Open a file without blocking, as an `opener` for `open`; raise a UserError for a pipe or a device."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # `open` reports a folder
        return descriptor
    os.close(descriptor)
    raise UserError(f"{path} is a pipe or a device; use a regular file")


def join(url: str, *parts: str) -> str:
    """Append parts to a path or URL, separated by slashes."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def scheme(url: str) -> str:
    """Return the scheme of a URL (`s3` for `s3://…`), or "" for a path."""
    return url.split("://", 1)[0] if "://" in url else ""


def is_web(url: str) -> bool:
    """Return whether a URL refers to a web server, which has neither listings nor storage options."""
    return scheme(url) in ("http", "https")


def remote(url: str) -> tuple[Any, str]:
    """Return the file system and path of a remote URL; listings are not cached, and S3 responses are verified.

    Raises:
        UserError: the file system does not support a given storage option.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url, **options_of(url))
        client = fs.s3 if scheme(url) in S3 else None  # s3fs checks its options here
    except TypeError as error:
        # "ClassName.__init__() got an unexpected keyword argument 'x'"
        raise UserError(
            f"{url}: invalid storage options ({', '.join(configured())}): {str(error).rpartition('() ')[2]}; correct "
            "storage.options or --storage"
        ) from error
    fs.invalidate_cache()
    if client is not None:
        responses.watch(client)
    _clients.add(fs)
    return fs, path


# A forked process keeps its parent's clients and creates new ones: closing a client would remove its connections from
# the selector that both processes share, and the parent would miss responses.
os.register_at_fork(after_in_child=lambda: _inherited.extend(_clients))


def options_of(url: str) -> dict[str, Any]:
    """Return the fsspec options for a remote URL, including defaults."""
    if is_web(url):
        return {}
    options = {"use_listings_cache": False, **configured()}
    if scheme(url) in S3:
        options["config_kwargs"] = {**CLIENT, **options.get("config_kwargs", {})}
    return options


def absolute(url: str) -> str:
    """Make a local path absolute, since workers may have a different working directory; URLs are returned unchanged.

    Raises:
        UserError: the path is relative in a submitted Ray job, whose working directory is temporary.
    """
    if not is_local(url):
        return url
    path = local_path(url)
    if not path.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise UserError(
            f"{url} is a relative path, which a submitted job resolves in a temporary folder; set --out or "
            "storage.root to an absolute path or a URL"
        )
    return os.path.normpath(Path.cwd() / path)
