"""Remote files, read until what came is proven by a checksum, or the store said it several times; see `answers`."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import IO, Any, cast

from fsspec.asyn import sync

from syncclip.core.settings import UserError
from syncclip.core.text import size as bytes_text
from syncclip.storage import responses
from syncclip.storage.retries import SILENCE, persistently

PIECE = 32 << 20
"""Bytes of a remote file that are copied at a time."""

MOST_WEB = 1 << 27
"""Bytes of a response of a web server that states no size, or is read at once."""


def whole(url: str, sha256: str | None = None) -> bytes:
    """All bytes of a file.

    Args:
        sha256: of the file, where it is known: what decides. If all answers have another, it is the file's.
    """
    found = b""

    def ask() -> tuple[str, bool]:
        nonlocal found
        found = persistently(url, _ask)
        held = sha256 is None and getattr(found, "held", True)
        digest = "" if held else hashlib.sha256(found).hexdigest()
        return digest, held or digest == sha256

    responses.agreed(url, ask)
    return found


def part(url: str, start: int, end: int | None) -> bytes:
    """The bytes [start, end) of a file, fewer where it ends before that. Of S3, no checksum holds them: it is asked
    twice, the second time for some bytes more, lest the same damage falls on the same place."""
    early, late = (responses.SHIFT, 0) if start >= responses.SHIFT else (0, responses.SHIFT)

    def ask(fs: Any, path: str) -> bytes:
        data = _ask(fs, path, start, end)
        if isinstance(data, responses.Answer) and len(data) < data.total:
            again = _ask(fs, path, start - early, None if end is None else end + late)
            if again[early : early + len(data)] != data:
                raise responses.spoilt("two answers that differ")
        return data

    data = persistently(url, ask)
    return whole(url) if len(data) == getattr(data, "total", None) else data


def copy(url: str, file: IO[bytes], sha256: str | None = None) -> None:
    """Copy a file into an open one, piece by piece; `sha256` as of `whole`."""
    said = persistently(url, lambda fs, path: int(fs.info(path)["size"] or 0))  # some web servers don't tell
    if said <= PIECE:
        file.write(whole(url, sha256))
        return

    def ask() -> tuple[str, bool]:
        file.seek(0)
        file.truncate()
        digest, md5, size, tag = hashlib.sha256(), hashlib.md5(usedforsecurity=False), said, None
        while (at := file.tell()) < size:
            data = persistently(url, partial(_ask, start=at, end=min(size, at + PIECE)))
            size, tag = getattr(data, "total", size), getattr(data, "tag", None)  # a HEAD may lie
            for one in (digest, md5):
                one.update(data)
            file.write(data)
        held = sha256 is None and (tag is None or responses.fits(md5, tag))
        return digest.hexdigest(), held or digest.hexdigest() == sha256

    responses.agreed(url, ask)


def at_once(fs: Any) -> dict[str, Any]:
    """Arguments for reading an object of S3 by one request; its parts would be those of a size that a HEAD claims."""
    return {"max_concurrency": 1} if type(fs).__name__ == "S3FileSystem" else {}


def _ask(fs: Any, path: str, start: int | None = None, end: int | None = None) -> bytes:
    if type(fs).__name__ == "HTTPFileSystem":
        return cast(bytes, sync(fs.loop, _from_web, fs, path, start or 0, end, timeout=SILENCE))
    bound = {"timeout": SILENCE} if fs.async_impl else {}  # others would not know it
    return cast(bytes, fs.cat_file(path, start=start, end=end, **bound, **at_once(fs)))


async def _from_web(fs: Any, path: str, start: int, end: int | None) -> bytes:
    """Bytes of a web server's response, which may be endless, or ignore the range that was requested."""
    ranged = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
    data, most = bytearray(), MOST_WEB if end is None else end - start
    async with (await fs.set_session()).get(fs.encode_url(path), headers=ranged) as response:
        fs._raise_not_found_for_status(response, path)
        before = 0 if response.status == 206 else start
        async for piece in response.content.iter_chunked(1 << 20):
            data += piece[before:]
            before = max(0, before - len(piece))
            if len(data) > most:
                if end is None:
                    raise UserError(
                        f"{path}: the server sends more than {bytes_text(most)}; download the file, and name the copy"
                    )
                break
    return bytes(data[:most])
