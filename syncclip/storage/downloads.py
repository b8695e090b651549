"""Downloads that are repeated until a checksum matches or several responses agree; see `responses`."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import IO, Any, cast

from fsspec.asyn import sync

from syncclip.core.settings import UserError
from syncclip.core.text import size as format_size
from syncclip.storage import responses
from syncclip.storage.retries import SILENCE, with_retries

PIECE = 32 << 20
"""Chunk size for copying remote files, in bytes."""

MOST_WEB = 1 << 27
"""Maximum size of a web server's response that is read into memory, in bytes."""


def whole(url: str, sha256: str | None = None) -> bytes:
    """Return all bytes of a remote file; see `files.fetch` for `sha256`."""
    data = b""

    def request() -> tuple[str, bool]:
        nonlocal data
        data = with_retries(url, _read)
        verified = sha256 is None and getattr(data, "verified", True)
        digest = "" if verified else hashlib.sha256(data).hexdigest()
        return digest, verified or digest == sha256

    responses.require_agreement(url, request)
    return data


def part(url: str, start: int, end: int | None) -> bytes:
    """Return the bytes [start, end) of a file, or fewer if the file ends earlier.

    S3 provides no checksum for a byte range. The range is read twice, the second time with a few additional bytes, so
    that corruption at the same offset in both responses affects different positions in the file.
    """
    early, late = (responses.SHIFT, 0) if start >= responses.SHIFT else (0, responses.SHIFT)

    def request(fs: Any, path: str) -> bytes:
        data = _read(fs, path, start, end)
        if isinstance(data, responses.ObjectBytes) and len(data) < data.total:
            second = _read(fs, path, start - early, None if end is None else end + late)
            if second[early : early + len(data)] != data:
                raise responses.corrupt("two responses differ")
        return data

    data = with_retries(url, request)
    return whole(url) if len(data) == getattr(data, "total", None) else data


def copy(url: str, file: IO[bytes], sha256: str | None = None) -> None:
    """Copy a remote file to a file open for reading and writing, in chunks; see `files.fetch` for `sha256`."""
    stated = with_retries(url, lambda fs, path: int(fs.info(path)["size"] or 0))  # 0 if a web server reports no size
    if stated <= PIECE:
        file.write(whole(url, sha256))
        return

    def request() -> tuple[str, bool]:
        file.seek(0)
        file.truncate()
        digest, md5, size, tag = hashlib.sha256(), hashlib.md5(usedforsecurity=False), stated, None
        while (position := file.tell()) < size:
            data = with_retries(url, partial(_read, start=position, end=min(size, position + PIECE)))
            size, tag = getattr(data, "total", size), getattr(data, "tag", None)  # a HEAD response may be corrupt
            digest.update(data)
            md5.update(data)
            file.write(data)
        verified = sha256 is None and (tag is None or responses.matches_tag(md5, tag, file))
        return digest.hexdigest(), verified or digest.hexdigest() == sha256

    responses.require_agreement(url, request)


def at_once(fs: Any) -> dict[str, Any]:
    """Return arguments to read an S3 object in one request; parallel requests would rely on an unverified response."""
    return {"max_concurrency": 1} if type(fs).__name__ == "S3FileSystem" else {}


def _read(fs: Any, path: str, start: int | None = None, end: int | None = None) -> bytes:
    if type(fs).__name__ == "HTTPFileSystem":
        return cast(bytes, sync(fs.loop, _read_web, fs, path, start or 0, end, timeout=SILENCE))
    timeout = {"timeout": SILENCE} if fs.async_impl else {}  # other file systems do not accept the argument
    return cast(bytes, fs.cat_file(path, start=start, end=end, **timeout, **at_once(fs)))


async def _read_web(fs: Any, path: str, start: int, end: int | None) -> bytes:
    """Read a web server's response, which may be endless or ignore the requested range."""
    headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
    data, limit = bytearray(), MOST_WEB if end is None else end - start
    async with (await fs.set_session()).get(fs.encode_url(path), headers=headers) as response:
        fs._raise_not_found_for_status(response, path)
        skipped = 0 if response.status == 206 else start
        async for piece in response.content.iter_chunked(1 << 20):
            data += piece[skipped:]
            skipped = max(0, skipped - len(piece))
            if len(data) > limit:
                if end is None:
                    raise UserError(
                        f"{path}: the response exceeds {format_size(limit)}; download the file, and use its local path"
                    )
                break
    return bytes(data[:limit])
