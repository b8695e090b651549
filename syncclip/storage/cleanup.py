"""What killed writers left behind: parts of files and uploads, told from those of living ones without this clock."""

from __future__ import annotations

import contextlib
import datetime
import re
import secrets
import shutil
import tempfile
from email.utils import parsedate_to_datetime
from pathlib import Path

from syncclip.runtime.processes import MARK, living, mark
from syncclip.storage.urls import S3, is_local, local_path, remote, scheme

_PART = re.compile(rf"\..*\.(?P<mark>{MARK})-[0-9a-f]{{8}}\.part")


def part_of(path: Path) -> Path:
    """Where a file is written before it takes its name: a hidden one, which says whose it is."""
    return path.with_name(f".{path.name}.{mark()}-{secrets.token_hex(4)}.part")


def sweep(url: str, older_than: float = 3600.0) -> int:
    """Remove what killed writers left in a folder; how many.

    Locally `.part` files, on S3 uploads that were never completed, which no listing shows but which cost money. A part
    whose process is gone from this machine goes at once. Of what may be another machine's, and of all uploads, goes
    what is `older_than` seconds by the clock of its disk or store.
    """
    if is_local(url):
        return _sweep_parts(local_path(url), older_than)
    with contextlib.suppress(OSError):
        return abort_uploads(url, older_than=older_than) if scheme(url) in S3 else 0
    return 0


def _sweep_parts(folder: Path, older_than: float) -> int:
    swept, oldest = 0, None
    for path in folder.glob(".*.part"):
        found = _PART.fullmatch(path.name)  # those of earlier versions name no machine
        alive = living(found["mark"]) if found else None
        with contextlib.suppress(FileNotFoundError):
            if alive is None:
                oldest = oldest or _now_on_disk(folder) - older_than
                alive = path.stat().st_mtime >= oldest
            if not alive:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                swept += 1
    return swept


def _now_on_disk(folder: Path) -> float:
    """The time that a file gets that is written now; a disk of another machine goes by that one's clock."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.", suffix=".part") as file:
        return Path(file.name).stat().st_mtime


def abort_uploads(url: str, but: str = "", older_than: float | None = None) -> int:
    """Abort all uploads to S3 of a file, or below a prefix, so that they can't be completed; returns how many.

    Args:
        but: the ID of an upload that stays.
        older_than: seconds by the clock of the store; None: of any age.

    Raises:
        OSError: the store doesn't list uploads, or not for this account.
    """
    fs, path = remote(url)
    bucket, prefix, _ = fs.split_path(path.rstrip("/"))
    asked: dict[str, str] = {"Bucket": bucket, "Prefix": prefix}
    aborted = 0
    while True:
        answer = fs.call_s3("list_multipart_uploads", **asked)
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        for upload in answer.get("Uploads", []):
            key, name = upload["Key"], upload["UploadId"]
            young = older_than is not None and upload["Initiated"] >= now - datetime.timedelta(seconds=older_than)
            if (key == prefix or key.startswith(f"{prefix}/")) and name != but and not young:
                with contextlib.suppress(FileNotFoundError):  # completed, or aborted by another
                    fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=name)
                    aborted += 1
        if not answer.get("IsTruncated"):
            return aborted
        asked |= {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}
