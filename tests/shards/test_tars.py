"""Tars whose headers lie."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.shards.tars import open_tar
from syncclip.shards.webdataset import index_tars


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """A header of a member, whatever size it tells."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\x80" if size >= 0 else b"\xff") + size.to_bytes(11, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def refusal(data: bytes) -> str:
    with pytest.raises(tarfile.TarError) as refused, open_tar(io.BytesIO(data)) as tar:
        list(tar)
    return str(refused.value)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_name_of_gigabytes_is_not_read(kind: bytes) -> None:
    assert refusal(header("a", 1 << 33, kind)) == "false header of 8,589,934,592 bytes"


def test_a_member_of_less_than_nothing_does_not_lead_back() -> None:
    assert refusal(header("a.jpg", -512)) == "false header of -512 bytes"


def test_headers_that_announce_each_other_for_ever_are_refused() -> None:
    assert "false header" in refusal(header("a", 0, b"x") * 20_000)


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [("s.txt", 5 << 30, "5.4 GB"), ("s.json", 2 << 20, "2.1 MB"), ("s.jpg", 6 << 30, "6.4 GB")],
)
def test_a_member_of_gigabytes_is_told_and_not_read(name: str, size: int, told: str, tmp_path: Path) -> None:
    file = tmp_path / "0.tar"
    with file.open("wb") as written:
        for one, length in ({"s.jpg": 4, "s.cls": 1} | {name: size}).items():
            written.write(header(one, length))
            written.seek(-(-length // 512) * 512, io.SEEK_CUR)
        written.truncate(written.tell() + 1024)
    with pytest.raises(UserError, match=rf"0\.tar: '{name}' has {told}, more than is read"):
        index_tars([str(file)])
