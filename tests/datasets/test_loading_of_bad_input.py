"""Malformed data: the command reports location and cause in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_app import Outcome
from tests.worlds.dataset import encoded, folder_of_folders, make_image
from tests.worlds.literature import miniature

Spoil = Callable[[Path], object]
Item = list[str | int]
"""[path, class id, class name], as a split file has it."""


def message_of(capsys: pytest.CaptureFixture[str], name: str, root: Path | None, out: Path) -> str:
    """Error message of packing the data; stderr contains nothing else but progress."""
    outcome = Outcome(
        capsys, "shards", "pack", name, "--out", str(out), *([] if root is None else ["--root", str(root)])
    )
    assert outcome.status == 2
    (line,) = (line for line in outcome.err.splitlines() if not line.startswith("pack: "))
    assert line.startswith("syncclip: ")
    return line.removeprefix("syncclip: ")


def remove(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        place = folder / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    return spoil


def write(name: str, data: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(data)


def link(name: str, target: str) -> Spoil:
    return lambda folder: (folder / name).symlink_to(target)


SPLIT_FILE = "dtd/split_zhou_DescribableTextures.json"


def entries(change: Callable[[Item], Item | None]) -> Spoil:
    """Change each entry of the split file of dtd, or leave it out."""

    def spoil(root: Path) -> None:
        content = json.loads((root / SPLIT_FILE).read_text())
        changed = {split: [new for one in of if (new := change(one)) is not None] for split, of in content.items()}
        (root / SPLIT_FILE).write_text(json.dumps(changed))

    return spoil


def five_gone(root: Path) -> None:
    for path in sorted((root / "dtd" / "images" / "banded").iterdir())[:5]:
        path.unlink()


def first_image(data: bytes) -> Spoil:
    def spoil(root: Path) -> None:
        sorted((root / "dtd" / "images" / "banded").iterdir())[0].write_bytes(data)

    return spoil


HALF = encoded(make_image(0, 0))[:60]
PUBLISHED: dict[str, tuple[Spoil, str]] = {
    "no root": (remove("."), "data: dataset folder not found; see CoOp's instructions"),
    "no dataset": (remove("dtd"), "data/dtd: folder of dtd not found; see CoOp's instructions"),
    "not a split file": (
        remove(SPLIT_FILE),
        f"{SPLIT_FILE}: missing; see CoOp's instructions",
    ),
    "images not on disk": (five_gone, "5 of 35 listed images are missing ("),
    "a broken image": (first_image(HALF), ".jpg: unreadable image: "),
    "an empty image": (first_image(b""), ".jpg: unreadable image: "),
    "another file": (first_image(b"notes"), ".jpg: unreadable image: not a JPEG, PNG, WebP, GIF, BMP or TIFF image"),
    "a class without an image": (
        entries(lambda item: None if item[1] == 1 else item),
        f"{SPLIT_FILE}: class(es) 1 have no image",
    ),
    "one class": (entries(lambda item: item if item[1] == 0 else None), "'dtd' has 1 class; at least 2"),
    "a name without a token": (
        entries(lambda item: [*item[:2], "_" if item[1] == 2 else item[2]]),
        "'dtd': class 2 has an unreadable name, ''",
    ),
    "two names for a class": (
        entries(lambda item: [*item[:2], str(item[0]) if item[1] == 2 else item[2]]),
        f"{SPLIT_FILE}: class 2 has two names, ",
    ),
    "a label out of range": (
        entries(lambda item: [item[0], -1, item[2]] if item[1] == 2 else item),
        "label -1 is out of range; ids start at 0",
    ),
    "a label far beyond all others": (
        entries(lambda item: [item[0], 10**15, item[2]] if item[1] == 2 else item),
        f"{SPLIT_FILE}: class(es) 2, 3, 4, … have no image",
    ),
    "a label of other digits": (
        entries(lambda item: [item[0], "²", item[2]] if item[1] == 2 else item),
        "is not [path, class id, class name]",
    ),
    "a name that no file can have": (
        entries(lambda item: [f"x\0/{item[0]}", *item[1:]] if item[1] == 2 else item),
        "9 of 35 listed images are missing (",
    ),
    "brackets without end": (write(SPLIT_FILE, b"[" * 100_000), f"{SPLIT_FILE}: not readable as JSON"),
    "another text": (write(SPLIT_FILE, b"\xff\xfe"), f"{SPLIT_FILE}: not readable as JSON"),
}


@pytest.mark.parametrize(("spoil", "part"), PUBLISHED.values(), ids=PUBLISHED)
def test_of_the_literature(capsys: pytest.CaptureFixture[str], tmp_path: Path, spoil: Spoil, part: str) -> None:
    miniature(tmp_path / "data", "dtd")
    spoil(tmp_path / "data")
    assert part in message_of(capsys, "dtd", tmp_path / "data", tmp_path / "packed")


LISTS: dict[str, tuple[str, Spoil, str]] = {
    "a loop": (
        "imagenet_a",
        link("imagenet-adversarial/imagenet-a/n00000001", "."),
        "imagenet-a/n00000001: link to a parent folder",
    ),
    "an image that leads to itself": (
        "imagenet_a",
        link("imagenet-adversarial/imagenet-a/n01440764/loop.jpg", "loop.jpg"),
        "n01440764/loop.jpg: broken link",
    ),
    "class names of another encoding": (
        "imagenet",
        write("imagenet/classnames.txt", "n01440764 jalapeño\n".encode("latin-1")),
        "imagenet/classnames.txt: byte 16 is not UTF-8; save the list as UTF-8",
    ),
    "variants of another encoding": (
        "fgvc_aircraft",
        write("fgvc_aircraft/variants.txt", "\n737\nAn\xe9tonov\n".encode("latin-1")),
        "fgvc_aircraft/variants.txt: byte 7 is not UTF-8",
    ),
    "a name that is not listed": (
        "fgvc_aircraft",
        write("fgvc_aircraft/images_variant_val.txt", b"\n1025794 Zeppelin\n"),
        "fgvc_aircraft/images_variant_val.txt, line 2: 'Zeppelin' is not listed in variants.txt",
    ),
    "no folder for a class": (
        "imagenet",
        remove("imagenet/images/train/n02012849"),
        "1 of 12 classes of classnames.txt",
    ),
    "a number out of range": (
        "imagenet_v2",
        lambda root: (root / "imagenetv2/imagenetv2-matched-frequency-format-val/12").mkdir(),
        "val/12: label out of range; folder names are line numbers of classnames.txt, 0 to 11",
    ),
}


@pytest.mark.parametrize(("name", "spoil", "part"), LISTS.values(), ids=LISTS)
def test_of_lists_and_folders(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, spoil: Spoil, part: str
) -> None:
    miniature(tmp_path / "data", name)
    spoil(tmp_path / "data")
    assert part in message_of(capsys, name, tmp_path / "data", tmp_path / "packed")


def test_a_mark_of_the_encoding_before_a_list_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    miniature(tmp_path, "imagenet_a")
    file = tmp_path / "imagenet-adversarial" / "classnames.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    outcome = Outcome(
        capsys, "shards", "pack", "imagenet_a", "--root", str(tmp_path), "--out", str(tmp_path / "packed")
    )
    assert outcome.status == 0, outcome.err


def emptied(folder: Path) -> None:
    for path in (folder / "red_circle").iterdir():
        path.unlink()


def one_class(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "red_circle":
            shutil.rmtree(path)


OWN: dict[str, tuple[Spoil, str]] = {
    "no folder": (remove("."), "mine does not exist"),
    "no images": (
        lambda folder: [shutil.rmtree(path) for path in folder.iterdir()],
        "no class folders",
    ),
    "a class without an image": (emptied, "no test image of class 'red_circle'"),
    "one class": (one_class, "only one class ('red_circle')"),
    "two classes of one name": (
        lambda folder: shutil.copytree(folder / "red_circle", folder / "red circle"),
        "classes 4 and 5 share the name 'red circle'",
    ),
    "a name without a token": (
        lambda folder: (folder / "red_circle").rename(folder / "_"),
        "has an unreadable name, ''",
    ),
    "a broken image": (write("red_circle/000.png", HALF), "red_circle/000.png: unreadable image: "),
    "another file": (write("red_circle/000.png", b"notes"), "red_circle/000.png: unreadable image: not a JPEG"),
    "a loop": (link("loop", ".."), "mine/loop: link to a parent folder"),
    "an image that leads to itself": (
        link("red_circle/x.png", "x.png"),
        "red_circle/x.png: broken link",
    ),
}


@pytest.mark.parametrize(("spoil", "part"), OWN.values(), ids=OWN)
def test_of_ones_own(capsys: pytest.CaptureFixture[str], tmp_path: Path, spoil: Spoil, part: str) -> None:
    folder_of_folders(tmp_path / "mine", per_class=4)
    spoil(tmp_path / "mine")
    assert part in message_of(capsys, str(tmp_path / "mine"), None, tmp_path / "packed")


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ("none.png,1,b", "table.csv: 1 of 4 listed images are missing ("),
        ("red_circle/000.png,-1,b", "table.csv, row 4: label -1 is out of range; ids start at 0"),
        ("red_circle/000.png,0,b", "table.csv, row 4: class 0 has two names, 'a' and 'b'"),
        ("red_circle/000.png,2,c", "class(es) 1 have no image; ids must be contiguous"),
        ("red_circle/003.png,1000000000000,c", "class(es) 1, 2, 3, … have no image"),
        ("red_circle/003.png,²,b", "class '²' has 1 image; a random split requires at least 3"),
        ("red_circle/003.png,0,a", "has 1 class; at least 2"),
        ("./red_circle/000.png,0,a", "red_circle/000.png is already listed in "),
    ],
)
def test_of_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path, row: str, part: str) -> None:
    folder_of_folders(tmp_path, per_class=4)
    lines = ["path,label,classname", *(f"red_circle/{number:03d}.png,0,a" for number in range(3)), row]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    assert part in message_of(capsys, str(tmp_path / "table.csv"), None, tmp_path / "packed")
