"""Removal of partial files and uploads left behind by killed writers, without relying on the local clock."""

from __future__ import annotations

import contextlib
import datetime
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

from syncclip.runtime.processes import MARK, is_alive, mark
from syncclip.storage.urls import S3, is_local, local_path, remote, scheme

_PART = re.compile(rf"\..*\.(?P<mark>{MARK})-[0-9a-f]{{8}}\.part")


def part_of(path: Path) -> Path:
    """Return a hidden temporary path for a file; the name identifies this process."""
    return path.with_name(f".{path.name}.{mark()}-{secrets.token_hex(4)}.part")


def sweep(url: str, older_than: float = 3600.0) -> int:
    """Remove partial files and uploads left in a folder by killed writers, and return the number removed.

    A `.part` file is removed immediately if its writer ran on this machine and has ended. Files from other machines
    and incomplete S3 uploads (which are billed but not listed) are removed after `older_than` seconds, according to
    the clock of the file server or object store.
    """
    if not is_local(url):
        with contextlib.suppress(OSError):
            return abort_uploads(url, older_than=older_than) if scheme(url) in S3 else 0
        return 0
    folder, swept, oldest = local_path(url), 0, None
    for path in folder.glob(".*.part"):
        match = _PART.fullmatch(path.name)
        alive = is_alive(match["mark"]) if match else None
        with contextlib.suppress(FileNotFoundError):
            if alive is None:
                oldest = oldest or _now_on_disk(folder) - older_than
                alive = path.stat().st_mtime >= oldest
            if not alive:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                swept += 1
    return swept


def _now_on_disk(folder: Path) -> float:
    """Return the current time according to the clock of the file server."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.", suffix=".part") as file:
        return Path(file.name).stat().st_mtime


def abort_uploads(
    url: str, but: str = "", older_than: float | None = None, only: Callable[[str], bool] | None = None
) -> int:
    """Abort incomplete S3 uploads to a file or under a prefix, and return the number aborted.

    Args:
        but: ID of an upload to keep.
        only: function that selects URLs; default: all.
        older_than: minimum age in seconds, according to the store's clock; None aborts uploads of any age.

    Raises:
        OSError: the store does not support listing uploads, or does not permit it.
    """
    fs, path = remote(url)
    bucket, prefix, _ = fs.split_path(path.rstrip("/"))
    query: dict[str, str] = {"Bucket": bucket, "Prefix": prefix}
    aborted = 0
    while True:
        response = fs.call_s3("list_multipart_uploads", **query)
        now = parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
        for upload in response.get("Uploads", []):
            key, upload_id = upload["Key"], upload["UploadId"]
            young = older_than is not None and upload["Initiated"] >= now - datetime.timedelta(seconds=older_than)
            inside = key == prefix or key.startswith(f"{prefix}/")
            selected = only is None or only(url.rstrip("/") + key.removeprefix(prefix))
            if inside and selected and upload_id != but and not young:
                with contextlib.suppress(FileNotFoundError):  # completed, or aborted by another process
                    fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload_id)
                    aborted += 1
        if not response.get("IsTruncated"):
            return aborted
        query |= {"KeyMarker": response["NextKeyMarker"], "UploadIdMarker": response["NextUploadIdMarker"]}
