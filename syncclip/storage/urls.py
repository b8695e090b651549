"""Where things are stored: paths and URLs, and the file systems behind them."""

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

# No folders there, and "making" one could make a bucket out of a typing error.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "obs", "r2"})
S3 = frozenset({"s3", "s3a"})

CLIENT = {"retries": {"mode": "legacy", "total_max_attempts": 5}, "connect_timeout": 10, "read_timeout": 30}
"""botocore's settings for S3: five tries of a request with growing pauses, which s3fs goes through up to five times.

The mode `standard` does not try again after a 429, and gives up the sooner the more requests fail.
"""

LONGEST_PATH, LONGEST_NAME = 4096, 255
"""Bytes that Linux allows."""

_clients: weakref.WeakSet[Any] = weakref.WeakSet()
_inherited: list[Any] = []


class StorageSettings(Settings):
    """Where runs are kept, and what fsspec needs to get there."""

    root: str = "runs"
    """A folder or any fsspec URL; a run is stored at <root>/<name of the recipe>."""
    options: dict[str, Any] = Field(default_factory=dict)
    """fsspec's options of remote URLs, such as `endpoint_url` or `anon`."""


def configure(options: Mapping[str, Any]) -> None:
    """Set the fsspec options of remote URLs in the current session."""
    remember_options(options)
    present = current().options
    present.clear()
    present.update(options)


def configured() -> dict[str, Any]:
    """Return the fsspec options of remote URLs in the current session."""
    return {**current().default_options, **current().options}


def is_local(url: str) -> bool:
    """Whether `url` is a path of this machine: without a scheme, or with `file://`."""
    return "://" not in url or url.startswith(("file://", "local://"))


def local_path(url: str) -> Path:
    """The path of a local `url`; `~` stands for the home folder.

    Raises:
        UserError: no file of this machine can have it.
    """
    kind, _, path = url.rpartition("://")
    assert kind in ("", "file", "local"), f"{url} is not local"
    return home_path(path)


def home_path(text: str) -> Path:
    """`local_path` of a text that may also be another kind of name, such as one on the hub."""
    try:
        raw = os.fsencode(text)
        if b"\0" not in raw and len(raw) < LONGEST_PATH and max(map(len, raw.split(b"/"))) <= LONGEST_NAME:
            return Path(text).expanduser()
    except (UnicodeError, RuntimeError):  # half a character; the home of a user who doesn't exist
        pass
    raise UserError(f"{cut(text)!r} can't be a path here: it is too long, or holds what none may; correct it")


def open_local(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a file; what would have to be waited for is refused. An `opener` of `open`.

    Raises:
        UserError: it is a pipe or a device.
        OSError: it can't be opened.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # of a folder, `open` says so itself
        return descriptor
    os.close(descriptor)
    raise UserError(f"{path} is no file but a pipe or a device; name a file")


def join(url: str, *parts: str) -> str:
    """`url/part/…`, for paths and URLs alike."""
    return "/".join([url.rstrip("/"), *(part.strip("/") for part in parts)])


def scheme(url: str) -> str:
    """`s3` of `s3://…`; "" of a path."""
    return url.split("://", 1)[0] if "://" in url else ""


def is_web(url: str) -> bool:
    """Whether a URL is of a web server, which lists nothing and takes no options of a store."""
    return scheme(url) in ("http", "https")


def remote(url: str) -> tuple[Any, str]:
    """The file system of a remote URL, which keeps no listings, and the path in it; answers of S3 are checked."""
    fs, path = fsspec.core.url_to_fs(url, **options_of(url))
    fs.invalidate_cache()
    if scheme(url) in S3:
        responses.watch(fs.s3)
    _clients.add(fs)
    return fs, path


# A forked process never releases the parent's clients. fsspec makes new ones there. But the end of an old one would
# close its connections, and so take them out of the selector that both processes share: answers to the parent would be
# noticed when it gives up waiting, if at all.
os.register_at_fork(after_in_child=lambda: _inherited.extend(_clients))


def options_of(url: str) -> dict[str, Any]:
    """The fsspec options of a remote URL: the configured ones over those given to the command, over our defaults."""
    if is_web(url):
        return {}
    options = {"use_listings_cache": False, **configured()}
    if scheme(url) in S3:
        options["config_kwargs"] = {**CLIENT, **options.get("config_kwargs", {})}
    return options


def absolute(url: str) -> str:
    """A local path made independent of the working folder, for workers may have another; URLs as they are.

    Raises:
        UserError: the path is relative, and this is a submitted Ray job, whose working folder is a temporary one.
    """
    if not is_local(url):
        return url
    path = local_path(url)
    if not path.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise UserError(
            f"{url} is a relative path, which in a submitted job is in a temporary folder; give an absolute path or "
            "a URL with --out or storage.root"
        )
    return os.path.normpath(Path.cwd() / path)
