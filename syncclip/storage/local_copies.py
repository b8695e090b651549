"""Verified local copies of remote model files, shared by all processes on a machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.core.text import size as format_size
from syncclip.runtime.tempdirs import private_tempdir, temporary_folder
from syncclip.storage.files import fetch, file_sha256
from syncclip.storage.retries import FULL, MissingError, user_errors, with_retries
from syncclip.storage.shared_folder import SharedFolder
from syncclip.storage.urls import join

CACHE = "SYNCCLIP_CACHE"
"""Environment variable with the folder for copies of remote weights; default: a per-user temporary folder."""

TAGS = ("md5Hash", "ETag", "etag")
"""Names of an object's version tag in the listings of s3fs, gcsfs and adlfs."""


def remote_files(url: str) -> dict[str, tuple[int, str]]:
    """Map the files in a remote folder and its subfolders to their sizes in bytes and version tags.

    Names are relative to `url`; the name of a single file at `url` is empty.

    Raises:
        MissingError: neither a file nor a folder exists at `url`.
    """

    def listed(fs: Any, path: str) -> dict[str, tuple[int, str]]:
        files = {name: info or fs.info(name) for name, info in fs.find(path, detail=True).items()}
        return {
            name.removeprefix(path).lstrip("/"): (
                int(info["size"] or 0),
                next((str(info[tag]).strip('"') for tag in TAGS if tag in info), ""),
            )
            for name, info in files.items()
            if ".." not in name.split("/")  # an object's name may contain any text
        }

    with user_errors(url, "read"):
        if files := with_retries(url, listed):
            return files
    raise MissingError(f"cannot read {url}: not found; check the URL and storage.options")


@contextmanager
def local_copy(url: str, files: Mapping[str, tuple[int, str]]) -> Iterator[Path]:
    """Copy `files` at `url` to this machine, unless they have been copied; yield the path of the file or folder.

    All processes on the machine share one copy of each file. One process downloads a file while the others wait; if it
    is killed, another process downloads the file. The checksum of each file is verified on every call, and a corrupt
    file is downloaded again. If the disk is full, the least recently used files are removed, except those in use.

    Args:
        files: result of `remote_files`, or a part of it.

    Raises:
        UserError: the disk is full, or a file was replaced after it was listed.
    """
    cache = SharedFolder(Path(os.environ.get(CACHE) or temporary_folder() / f"syncclip-{os.getuid()}-weights"))
    with private_tempdir() as parent, ExitStack() as opened:
        folder = parent / url.rstrip("/").rpartition("/")[2]
        for name, (size, tag) in files.items():
            source = join(url, name) if name else url
            key = hashlib.sha256(f"{source} {tag}".encode()).hexdigest()[:32]
            checksum = cache.folder / f"{key}.sha256"
            try:
                fetch_file = partial(_fetch, source, (size, tag), checksum)
                descriptor = cache.open(key, size, fetch_file, partial(_is_intact, checksum))
            except (OSError, UserError) as error:
                if getattr(error.__cause__ or error, "errno", None) not in FULL:
                    raise
                descriptor = None
            if descriptor is None:
                total = format_size(sum(size for size, _ in files.values()))
                raise UserError(
                    f"cannot copy {url} to {cache.folder}: the disk is full, and the files need {total}; free up some "
                    f"space, or set {CACHE} to a folder on a larger disk"
                )
            opened.callback(os.close, descriptor)
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(cache.path(key, size))
        yield folder


def _fetch(url: str, listed: tuple[int, str], checksum: Path, path: Path) -> None:
    """Download a file, and write its checksum before the file is moved into place."""
    fetch(url, path)
    if remote_files(url) != {"": (path.stat().st_size, listed[1])} or path.stat().st_size != listed[0]:
        raise UserError(f"{url} was replaced during the download; run the same command again")
    with path.open("rb") as file:
        checksum.write_text(file_sha256(file))
    current().downloads.append(listed[0])


def _is_intact(checksum: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError), open(descriptor, "rb", closefd=False) as file:
        return file_sha256(file) == checksum.read_text()
    return False
