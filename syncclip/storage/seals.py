"""Seals: the digest of a file in the file itself, so that a flipped bit is told by the file's name and never used.

A sealed file holds `seal-sha256:` and 64 hex digits once: the sha256 of its bytes with zeros in place of these digits.
In JSON it is the value of a last key `seal`, in YAML a first comment, as YAML that is cut off is still YAML, in
Markdown and HTML a last one, in parquet a key of the footer's metadata, in safetensors of the header's. A file without
it is of an earlier version, or a user's own.
"""

from __future__ import annotations

import hashlib
import re

from syncclip.core.settings import UserError

MARK = b"seal-sha256:"
BLANK = b"0" * 64
KEY = "seal"
_TAIL, _HEAD = 64 << 10, 1 << 10
"""Bytes at the end and at the beginning of a file that its seal is looked for in."""
_CLOSING = re.compile(rb"\s*\}(\s*\])?\s*\Z")
_YAML = b"# " + MARK
_OF_TEXT = re.compile(
    rb'(?:,?\n "seal": "%(seal)s"|(?<=\[)"%(seal)s"|# %(seal)s\n|<!-- %(seal)s -->\n)'
    % {b"seal": MARK + rb"[0-9a-f]{64}"}
)


class DamagedError(UserError):
    """A file that is not as it was written."""


def sealed(data: bytes, kind: str) -> bytes:
    """The bytes of a file with its seal.

    Args:
        data: the file without one; of a parquet file, with a blank one.
        kind: json, yaml, md, html, safetensors or parquet.
    """
    blank = _with_blank(data, kind)
    place = _find(blank)
    assert place is not None and blank[place : place + 64] == BLANK, "the seal is near an end of the file"
    return blank[:place] + _digest(blank, place) + blank[place + 64 :]


def content(url: str, data: bytes) -> bytes:
    """A file's content once its seal is found right: a text without the seal, any other file as it is.

    Tars have none, whatever they hold.

    Raises:
        DamagedError: seal and bytes differ, or the seal's own mark is damaged.
    """
    if url.endswith(".tar"):
        return data
    place = _find(data)
    in_first_line = bool(data) and (_YAML.startswith(data) or (place == len(_YAML) and len(data) <= place + 64))
    if in_first_line and url.endswith(".yaml"):
        raise _damage(url)  # cut off there
    if place is None:
        if _has_spoilt_mark(data):
            raise _damage(url)
        return data
    if len(data) < place + 64 or data[place + 64 :] in (b"", b'"', b'"\n'):
        return data  # cut off at its seal: a document is refused by its parser, of a text nothing else is missing
    if data[place : place + 64] != _digest(data, place):
        raise _damage(url)
    found = _OF_TEXT.search(data, max(0, place - 32))
    return data if found is None else data[: found.start()] + data[found.end() :]


def is_sealed(data: bytes) -> bool:
    """Whether a file has a seal, right or wrong."""
    return _find(data) is not None


def _find(data: bytes) -> int | None:
    """Where the digest begins."""
    place = data.rfind(MARK, max(0, len(data) - _TAIL))
    if place < 0:
        place = data.find(MARK, 0, _HEAD)
    return None if place < 0 else place + len(MARK)


def _digest(data: bytes, place: int) -> bytes:
    view, digest = memoryview(data), hashlib.sha256()
    for part in (view[:place], BLANK, view[place + 64 :]):
        digest.update(part)
    return digest.hexdigest().encode()


def _has_spoilt_mark(data: bytes) -> bool:
    """Whether a digest follows what is the mark but for a letter or two: else a flip in it would undo the seal."""
    for half, before in ((MARK[:6], 0), (MARK[6:], 6)):  # one of them is whole
        for place in (data.rfind(half, max(0, len(data) - _TAIL)), data.find(half, 0, _HEAD)):
            mark = data[place - before : place - before + len(MARK)] if place >= before else b""
            if len(mark) == len(MARK) and sum(a != b for a, b in zip(mark, MARK, strict=True)) <= 2:
                return True
    return False


def _with_blank(data: bytes, kind: str) -> bytes:
    """The file with a seal of zeros."""
    seal = MARK + BLANK
    if kind == "parquet":
        return data
    if kind == "safetensors":  # its header, a JSON object after its own length, is padded to eight bytes
        size = 8 + int.from_bytes(data[:8], "little")
        header = data[8:size].rstrip()
        assert not header.startswith(b'{"__metadata__"')
        header = b'{"__metadata__":{"seal":"%s"}%s%s' % (seal, b"," if len(header) > 2 else b"", header[1:])
        header += b" " * (-len(header) % 8)
        return len(header).to_bytes(8, "little") + header + data[size:]
    if kind == "yaml":
        return b"# %s\n%s" % (seal, data)
    if kind in ("md", "html"):
        return b"%s<!-- %s -->\n" % (data, seal)
    if (closing := _CLOSING.search(data)) is None:
        assert data.split() == [b"[]"], "a JSON object, or a list of objects"
        return data.replace(b"[", b'["%s"' % seal)
    head = data[: closing.start()]
    return b'%s%s\n "seal": "%s"%s' % (head, b"" if head.endswith(b"{") else b",", seal, closing[0])


def _damage(url: str) -> DamagedError:
    return DamagedError(
        f"{url} is not as it was written: it was damaged, or edited; restore it, or remove it and run the command that "
        "wrote it again; if you edited it yourself, remove the line of its seal, and it is read as it is"
    )
