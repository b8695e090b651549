"""What killed writers left behind: parts of files and uploads, told from those of living ones without this clock."""

from __future__ import annotations

import contextlib
import datetime
import re
import secrets
import tempfile
from email.utils import parsedate_to_datetime
from pathlib import Path

from syncclip.core.owners import MARK, living, mark
from syncclip.storage.places import S3, is_local, local_path, remote, scheme

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
    return _sweep_uploads(url, older_than) if scheme(url) in S3 else 0


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
                path.unlink()
                swept += 1
    return swept


def _now_on_disk(folder: Path) -> float:
    """The time that a file gets that is written now; a disk of another machine goes by that one's clock."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock.", suffix=".part") as file:
        return Path(file.name).stat().st_mtime


def _sweep_uploads(url: str, older_than: float) -> int:
    """Abort old uploads below a prefix; none where this may not be asked, or the store doesn't know the question."""
    fs, path = remote(url)
    bucket, prefix, _ = fs.split_path(path)
    with contextlib.suppress(OSError):
        answer = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix.rstrip('/')}/")
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        oldest = now - datetime.timedelta(seconds=older_than)
        old = [upload for upload in answer.get("Uploads", []) if upload["Initiated"] < oldest]
        for upload in old:
            with contextlib.suppress(FileNotFoundError):  # its writer was quicker, or another sweeper
                fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(old)
    return 0
