from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.shards.webdataset import TarSet, index_tars, tars_in
from tests.worlds.dataset import CLASSES, encoded, make_image
from tests.worlds.webdataset import samples, tar


def test_tars_are_found_by_name_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in ("1.tar", "0.tar", ".2.tar"):
        tar(tmp_path / name, samples(count=1))
    (tmp_path / "notes.txt").write_text("no tar")
    assert tars_in(str(tmp_path)) == [str(tmp_path / "0.tar"), str(tmp_path / "1.tar")]
    assert tars_in(str(tmp_path / "nowhere")) == []


@pytest.mark.parametrize(
    ("cell", "label"), [({"cls": b" 3\n"}, 3), ({"cls": b"cat"}, "cat"), ({"json": b'{"class": -1}'}, -1)]
)
def test_a_label_is_a_number_or_a_name(tmp_path: Path, cell: dict[str, bytes], label: int | str) -> None:
    file = tar(tmp_path / "0.tar", [{"PNG": b"?", **cell}])
    (member,) = index_tars([str(file)])
    assert (member.tar, member.key, member.label, member.text) == (0, "s0000000", label, "")


def test_images_are_read_in_place(tmp_path: Path) -> None:
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
def test_an_empty_or_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(UserError, match="0.tar: (empty tar|not a valid tar file)"):
        index_tars([str(tmp_path / "0.tar")])


CAT, DOG = {"png": b"?", "cls": b"cat"}, {"png": b"?", "cls": b"dog"}


@pytest.mark.parametrize("between", [[], [("b", DOG)]])
def test_two_samples_of_one_key_are_told_and_none_is_lost(
    between: list[tuple[str, dict[str, bytes]]], tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for key, sample in [("a", CAT), *between, ("a", DOG)]:
            for kind, data in sample.items():
                info = tarfile.TarInfo(f"{key}.{kind}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    with pytest.raises(UserError, match=r"0\.tar: two samples have the key 'a'; make the keys unique"):
        index_tars([str(tmp_path / "0.tar")])


def test_files_that_an_operating_system_adds_are_no_samples(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name in (".DS_Store", "x/._a.png", "a.png", "a.cls"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"cat"))
    assert [(member.key, member.label) for member in index_tars([str(tmp_path / "0.tar")])] == [("a", "cat")]


def test_a_class_of_five_thousand_digits_is_a_name(tmp_path: Path) -> None:
    file = tar(tmp_path / "0.tar", [{"png": b"?", "cls": b"9" * 5000}])
    assert index_tars([str(file)])[0].label == "9" * 5000
