"""Tars whose headers lie."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.shards.tars import files_in, open_tar
from syncclip.shards.webdataset import TarSet, index_tars


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
    assert refusal(header("a", 1 << 33, kind)) == "invalid header of 8,589,934,592 bytes"


def test_a_member_of_less_than_nothing_does_not_lead_back() -> None:
    assert refusal(header("a.jpg", -512)) == "invalid header of -512 bytes"


def test_headers_that_announce_each_other_for_ever_are_refused() -> None:
    assert "invalid header" in refusal(header("a", 0, b"x") * 20_000)


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
    with pytest.raises(UserError, match=rf"0\.tar: '{name}' exceeds the size limit \({told}\)"):
        index_tars([str(file)])


def linked(file: Path, links: dict[str, str], kind: bytes) -> Path:
    """A tar of `x/a.png`, and links to it or to what is not there."""
    with tarfile.open(file, "w") as tar:
        for name, content in {"x/a.png": b"pixels", "x/a.cls": b"cat"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, target in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return file


@pytest.mark.parametrize(
    ("kind", "links"),
    [
        (tarfile.LNKTYPE, {"x/b.png": "x/a.png", "c.png": "./x/b.png"}),
        (tarfile.SYMTYPE, {"x/b.png": "a.png", "y/c.png": "../x/b.png"}),
    ],
    ids=["hard", "symbolic"],
)
def test_links_are_the_files_that_they_point_to(kind: bytes, links: dict[str, str], tmp_path: Path) -> None:
    with linked(tmp_path / "0.tar", links, kind).open("rb") as file, open_tar(file) as tar:
        files = dict(files_in(tar))
    assert list(files) == ["x/a.png", "x/a.cls", *links]
    assert all(files[name] is not None and files[name].name == "x/a.png" for name in links)  # type: ignore[union-attr]


@pytest.mark.parametrize("links", [{"b.png": "gone.png"}, {"b.png": "c.png", "c.png": "b.png"}, {"b.png": "b.png"}])
@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE], ids=["hard", "symbolic"])
def test_links_that_lead_nowhere_have_no_file(kind: bytes, links: dict[str, str], tmp_path: Path) -> None:
    with linked(tmp_path / "0.tar", links, kind).open("rb") as file, open_tar(file) as tar:
        assert dict(files_in(tar))["b.png"] is None
    with pytest.raises(UserError, match=r"0\.tar: 'b\.png' links to a file that is not in the tar"):
        index_tars([str(tmp_path / "0.tar")])


def test_a_linked_image_of_a_dataset_is_read(tmp_path: Path) -> None:
    links = {"x/b.png": "x/a.png", "x/b.cls": "x/a.cls"}
    file = linked(tmp_path / "0.tar", links, tarfile.LNKTYPE)
    members = index_tars([str(file)])
    assert [(member.key, member.label) for member in members] == [("x/a", "cat"), ("x/b", "cat")]
    images = TarSet([str(file)], members, [0, 0])
    assert images.read(1) == images.read(0) == b"pixels"


def test_members_that_are_not_used_are_counted(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("a.jpg", "a.png", "a.heic", "a.cls", "a.txt", "b.gif", "b.seg.png", "b.json"):
            info = tarfile.TarInfo(name)
            info.size = len(content := b'{"label": 0}' if name == "b.json" else b"0")
            tar.addfile(info, io.BytesIO(content))
    skipped = Counter[str]()
    assert len(index_tars([str(tmp_path / "0.tar")], skipped)) == 2
    assert skipped == {".png": 1, ".heic": 1, ".seg.png": 1}
