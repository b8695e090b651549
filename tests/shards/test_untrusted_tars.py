"""Tars with invalid headers, links and unused members."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.shards.images import SkippedFiles
from syncclip.shards.untrusted_tars import files_in, open_tar
from syncclip.shards.webdataset import TarSet, index_tars


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    """A member's header that declares any size."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\x80" if size >= 0 else b"\xff") + size.to_bytes(11, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    ("data", "message"),
    [(header("a", 1 << 33, type_), "a size of 8,589,934,592 bytes") for type_ in (b"x", b"g", b"L", b"K")]
    + [
        (header("a.jpg", -512), "a size of -512 bytes"),
        (header("a", 0, b"x") * 20_000, "invalid header"),
    ],
    ids=["pax", "global pax", "long name", "long link", "negative size", "recursion"],
)
def test_an_invalid_header_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(tarfile.TarError, match=message), open_tar(io.BytesIO(data)) as tar:
        list(tar)


@pytest.mark.parametrize(
    ("name", "size", "text"),
    [("s.txt", 5 << 30, "5.4 GB"), ("s.json", 2 << 20, "2.1 MB"), ("s.jpg", 6 << 30, "6.4 GB")],
)
def test_a_huge_member_is_an_error_before_it_is_read(name: str, size: int, text: str, tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with path.open("wb") as file:
        for member, length in ({"s.jpg": 4, "s.cls": 1} | {name: size}).items():
            file.write(header(member, length))
            file.seek(-(-length // 512) * 512, io.SEEK_CUR)
        file.truncate(file.tell() + 1024)
    with pytest.raises(UserError, match=rf"0\.tar: '{name}' \({text}\) exceeds the size limit"):
        index_tars([str(path)])


def write_tar(path: Path, files: dict[str, bytes], links: dict[str, str], link_type: bytes = tarfile.LNKTYPE) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = link_type, target
            tar.addfile(info)
    return path


IMAGE = {"x/a.png": b"pixels", "x/a.cls": b"cat"}


@pytest.mark.parametrize(
    ("link_type", "links"),
    [
        (tarfile.LNKTYPE, {"x/b.png": "x/a.png", "c.png": "./x/b.png"}),
        (tarfile.SYMTYPE, {"x/b.png": "a.png", "y/c.png": "../x/b.png"}),
    ],
    ids=["hard", "symbolic"],
)
def test_links_are_resolved(link_type: bytes, links: dict[str, str], tmp_path: Path) -> None:
    with write_tar(tmp_path / "0.tar", IMAGE, links, link_type).open("rb") as file, open_tar(file) as tar:
        files = dict(files_in(tar))
    assert list(files) == ["x/a.png", "x/a.cls", *links]
    assert all(files[name] is not None and files[name].name == "x/a.png" for name in links)  # type: ignore[union-attr]


@pytest.mark.parametrize("links", [{"b.png": "gone.png"}, {"b.png": "c.png", "c.png": "b.png"}, {"b.png": "b.png"}])
@pytest.mark.parametrize("link_type", [tarfile.LNKTYPE, tarfile.SYMTYPE], ids=["hard", "symbolic"])
def test_a_dangling_link_is_an_error(link_type: bytes, links: dict[str, str], tmp_path: Path) -> None:
    with write_tar(tmp_path / "0.tar", IMAGE, links, link_type).open("rb") as file, open_tar(file) as tar:
        assert dict(files_in(tar))["b.png"] is None
    with pytest.raises(UserError, match=r"0\.tar: 'b\.png' links to a file that is not in the tar"):
        index_tars([str(tmp_path / "0.tar")])


def test_a_linked_image_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", IMAGE, {"x/b.png": "x/a.png", "x/b.cls": "x/a.cls"})
    members = index_tars([str(path)])
    assert [(member.key, member.label) for member in members] == [("x/a", "cat"), ("x/b", "cat")]
    images = TarSet([str(path)], members, [0, 0])
    assert images.read(1) == images.read(0) == b"pixels"


def test_unused_members_are_counted(tmp_path: Path) -> None:
    names = ("a.jpg", "a.png", "a.heic", "a.cls", "a.txt", "b.gif", "b.seg.png")
    path = write_tar(tmp_path / "0.tar", {**dict.fromkeys(names, b"0"), "b.json": b'{"label": 0}'}, {})
    skipped = SkippedFiles()
    assert len(index_tars([str(path)], skipped)) == 2
    assert skipped.counts == {".png": 1, ".heic": 1, ".seg.png": 1}
