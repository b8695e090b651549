"""Checksums embedded in files, together with the ID of each file's owner.

The format is `checksum-sha256:<64 hex digits>:<16 hex digits>`. The 64 digits are the file's SHA-256 hash, computed
with zeros in place of these digits. The 16 digits identify the owner (a run, a study, a synthetic or packed dataset)
and are used to detect swapped files. The checksum is stored in the last key (`checksum`) of JSON files, the first
comment of YAML files (since truncated YAML may be valid), the last comment of Markdown and HTML files, and the metadata
of parquet and safetensors files.
"""

from __future__ import annotations

import hashlib
import re

from syncclip.core.settings import UserError

MARK = b"checksum-sha256:"
KEY = "checksum"
NOBODY = "0" * 16
"""Owner ID recorded in files without an owner."""
_DIGITS = b"0" * 64
_SIZE = len(_DIGITS) + 1 + len(NOBODY)
_TAIL, _HEAD = 64 << 10, 1 << 10
"""Number of bytes to search for a checksum at the end and at the start of a file."""
_CLOSING = re.compile(rb"\s*\}(\s*\])?\s*\Z")
_YAML = b"# " + MARK
_PATTERN = rb"%s[0-9a-f]{64}:[0-9a-f]{16}" % MARK
_IN_TEXT = re.compile(
    rb'(?:,?\n "checksum": "%(checksum)s"|(?<=\[)"%(checksum)s"|# %(checksum)s\n|<!-- %(checksum)s -->\n)'
    % {b"checksum": _PATTERN}
)
KINDS = ("json", "yaml", "md", "html", "parquet", "safetensors")
"""Extensions of all file formats that contain a checksum."""
_REMEDY = "restore the file, or remove it and rerun the command that wrote it"


class DamagedError(UserError):
    """Raised if a file was modified, truncated or swapped after it was written."""


def identity(text: str) -> str:
    """Return an owner ID: 16 hex digits derived from text that is unique to the owner."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def blank(owner: str = NOBODY) -> bytes:
    """Return a placeholder checksum whose 64 hash digits are zeros."""
    assert len(owner) == len(NOBODY), owner
    return b"%s%s:%s" % (MARK, _DIGITS, owner.encode())


def with_checksum(data: bytes, kind: str, owner: str = NOBODY) -> bytes:
    """Return a file's content with its checksum inserted.

    Args:
        data: content of the file; a parquet file must already contain a `blank` checksum.
        kind: one of `KINDS`.
        owner: ID of the file's owner.
    """
    checksum, blanked = blank(owner), data
    if kind == "safetensors":  # the header's length, and the header as JSON, padded to eight bytes
        size = 8 + int.from_bytes(data[:8], "little")
        header = data[8:size].rstrip()
        assert not header.startswith(b'{"__metadata__"')
        header = b'{"__metadata__":{"checksum":"%s"}%s%s' % (checksum, b"," if len(header) > 2 else b"", header[1:])
        header += b" " * (-len(header) % 8)
        blanked = len(header).to_bytes(8, "little") + header + data[size:]
    elif kind == "yaml":
        blanked = b"# %s\n%s" % (checksum, data)
    elif kind in ("md", "html"):
        blanked = b"%s<!-- %s -->\n" % (data, checksum)
    elif kind == "json" and (closing := _CLOSING.search(data)) is not None:
        head = data[: closing.start()]
        comma = b"" if head.endswith(b"{") else b","
        blanked = b'%s%s\n "checksum": "%s"%s' % (head, comma, checksum, closing[0])
    elif kind == "json":
        assert data.split() == [b"[]"], "the content is neither a JSON object nor a list of objects"
        blanked = data.replace(b"[", b'["%s"' % checksum)
    else:
        assert kind == "parquet", kind
    start = _find(blanked)
    assert start is not None and blanked[start : start + 64] == _DIGITS, "the file has no blank checksum at either end"
    return blanked[:start] + _checksum(blanked, start) + blanked[start + 64 :]


def verified_content(url: str, data: bytes, owner: str | None = None, required: bool = True) -> bytes:
    """Verify a file's checksum and return the file's content; the checksum is removed from text formats.

    Args:
        url: URL of the file, used in messages; only files whose extension is in `KINDS` are verified.
        owner: expected owner ID; None accepts any owner.
        required: whether a missing checksum is an error (False for files that users may write).

    Raises:
        DamagedError: the checksum is missing, does not match, or contains a different owner ID.
    """
    if url.rpartition(".")[2] not in KINDS:
        return data
    start = _find(data)
    truncated = bool(data) and _YAML.startswith(data)  # truncated in the first line of YAML
    if start is None and not required and not truncated and not _has_damaged_mark(data):
        return data
    if start is None or len(data) < start + _SIZE:
        raise DamagedError(f"{url} is corrupt: its checksum is missing; {_REMEDY}")
    if data[start : start + 64] != _checksum(data, start):
        raise DamagedError(f"{url} is corrupt: its checksum does not match; {_REMEDY}")
    if owner is not None and data[start + 65 : start + _SIZE] != owner.encode():
        raise DamagedError(f"{url} is corrupt: it belongs to a different run, study or dataset; {_REMEDY}")
    match = _IN_TEXT.search(data, max(0, start - 64))
    return data if match is None else data[: match.start()] + data[match.end() :]


def owner_of(data: bytes) -> str | None:
    """Return a file's owner ID, or None if the file has no checksum."""
    start = _find(data)
    return None if start is None else data[start + 65 : start + _SIZE].decode(errors="replace")


def _find(data: bytes) -> int | None:
    """Return the offset of the checksum's digits, or None if there is no checksum."""
    start = data.rfind(MARK, max(0, len(data) - _TAIL))
    if start < 0:
        start = data.find(MARK, 0, _HEAD)
    return None if start < 0 else start + len(MARK)


def _has_damaged_mark(data: bytes) -> bool:
    """Return whether a file contains `MARK` with up to two wrong bytes, i.e. a checksum whose prefix is corrupt."""
    for half, before in ((MARK[:6], 0), (MARK[6:], 6)):  # one of the halves is intact
        for start in (data.rfind(half, max(0, len(data) - _TAIL)), data.find(half, 0, _HEAD)):
            mark = data[start - before : start - before + len(MARK)] if start >= before else b""
            if len(mark) == len(MARK) and sum(a != b for a, b in zip(mark, MARK, strict=True)) <= 2:
                return True
    return False


def _checksum(data: bytes, start: int) -> bytes:
    view, digest = memoryview(data), hashlib.sha256()
    for part in (view[:start], _DIGITS, view[start + 64 :]):
        digest.update(part)
    return digest.hexdigest().encode()
