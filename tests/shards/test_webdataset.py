from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.shards.webdataset import TarSet, index_tars, tars_in
from tests.worlds.dataset import CLASSES, encoded, make_image
from tests.worlds.webdataset import samples, tar


def test_hidden_tars_are_ignored(tmp_path: Path) -> None:
    for name in ("1.tar", "0.tar", ".2.tar"):
        tar(tmp_path / name, samples(count=1))
    (tmp_path / "notes.txt").write_text("no tar")
    assert tars_in(str(tmp_path)) == [str(tmp_path / "0.tar"), str(tmp_path / "1.tar")]
    assert tars_in(str(tmp_path / "nowhere")) == []


@pytest.mark.parametrize(
    ("member", "label"),
    [
        ({"cls": b" 3\n"}, 3),
        ({"cls": b"cat"}, "cat"),
        ({"json": b'{"class": -1}'}, -1),
        ({"cls": b"9" * 5000}, "9" * 5000),
    ],
    ids=["id", "name", "json", "too many digits"],
)
def test_a_label_is_a_number_or_a_name(tmp_path: Path, member: dict[str, bytes], label: int | str) -> None:
    (image,) = index_tars([str(tar(tmp_path / "0.tar", [{"PNG": b"?", **member}]))])
    assert (image.tar, image.key, image.label, image.text) == (0, "s0000000", label, "")


def test_images_are_read_by_offset(tmp_path: Path) -> None:
    urls = [str(tar(tmp_path / f"{number}.tar", samples(2 * number, 2))) for number in range(2)]
    members = index_tars(urls)
    images = TarSet(urls, members, [int(member.label) for member in members])
    assert len(images) == 4 * len(CLASSES)
    rows = images.rows_of(2).tolist()
    assert [images.image(row).tobytes() for row in rows] == [make_image(2, i).tobytes() for i in range(4)]
    assert images.read(rows[3]) == encoded(make_image(2, 3), "PNG")
    assert images.name(rows[3]) == f"{urls[1]}:s{rows[3] - len(images) // 2:07d}"
    assert {images.text(row) for row in rows} == {"a shape"}


@pytest.mark.parametrize("content", [b"", b"x" * 2000])
def test_an_empty_or_invalid_tar_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(UserError, match="0.tar: (the tar contains no images|not a valid tar file)"):
        index_tars([str(tmp_path / "0.tar")])


def write_members(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize("keys", ["aa", "aba"])
def test_a_repeated_key_is_an_error(keys: str, tmp_path: Path) -> None:
    members = [(f"{key}.{extension}", b"cat") for key in keys for extension in ("png", "cls")]
    with pytest.raises(UserError, match=r"0\.tar: two samples have the key 'a'"):
        index_tars([write_members(tmp_path / "0.tar", members)])


def test_hidden_members_are_ignored(tmp_path: Path) -> None:
    members = [(name, b"cat") for name in (".DS_Store", "x/._a.png", "a.png", "a.cls")]
    (image,) = index_tars([write_members(tmp_path / "0.tar", members)])
    assert (image.key, image.label) == ("a", "cat")
