"""Malformed data: packing reports location and cause in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings
from syncclip.datasets.catalog import DATASETS
from syncclip.datasets.loading import read_dataset
from syncclip.datasets.packed import pack
from tests.worlds.dataset import encoded, folder_of_folders, make_image
from tests.worlds.literature import miniature

Damage = Callable[[Path], object]
Entry = list[str | int]
"""[path, class id, class name] of a split file."""


def error_of(name: str, root: Path | None, out: Path) -> str:
    """Error message of packing a dataset."""
    with pytest.raises(UserError) as error:
        pack(read_dataset(DatasetSettings(name=name, root=None if root is None else str(root))), str(out))
    message = str(error.value)
    assert "\n" not in message
    return message


def remove(name: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def write(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def link(name: str, target: str) -> Damage:
    return lambda folder: (folder / name).symlink_to(target)


SPLIT_FILE = "dtd/split_zhou_DescribableTextures.json"


def map_entries(change: Callable[[Entry], Entry | None]) -> Damage:
    """Change each entry of dtd's split file; None removes it."""

    def damage(root: Path) -> None:
        content = json.loads((root / SPLIT_FILE).read_text())
        changed = {
            split: [new for entry in entries if (new := change(entry)) is not None]
            for split, entries in content.items()
        }
        (root / SPLIT_FILE).write_text(json.dumps(changed))

    return damage


def add_entry(*entry: str | int) -> Damage:
    def damage(root: Path) -> None:
        content = json.loads((root / SPLIT_FILE).read_text())
        content["val"].append(entry)
        (root / SPLIT_FILE).write_text(json.dumps(content))

    return damage


def change_class_2(index: int, value: str | int) -> Damage:
    """Replace a field in all entries of class 2."""
    return map_entries(lambda entry: [*entry[:index], value, *entry[index + 1 :]] if entry[1] == 2 else entry)


def first_image(root: Path) -> Path:
    return min((root / "dtd" / "images" / "banded").iterdir())


def remove_five_images(root: Path) -> None:
    for path in sorted((root / "dtd" / "images" / "banded").iterdir())[:5]:
        path.unlink()


HALF = encoded(make_image(0, 0))[:60]
INVALID_ENTRY = "val[9]: "
SPLIT_FILES: dict[str, tuple[Damage, str]] = {
    "no root": (remove("."), "data: dataset folder not found; see CoOp's instructions"),
    "no dataset": (remove("dtd"), "data/dtd: folder of dtd not found; see CoOp's instructions"),
    "missing images": (remove_five_images, "5 of 35 listed images are missing ("),
    "truncated image": (lambda root: first_image(root).write_bytes(HALF), ".jpg: unreadable image: "),
    "empty image": (lambda root: first_image(root).write_bytes(b""), ".jpg: unreadable image: "),
    "text as image": (
        lambda root: first_image(root).write_bytes(b"notes"),
        ".jpg: unreadable image: not a JPEG, PNG, WebP, GIF, BMP or TIFF image",
    ),
    "class without image": (
        map_entries(lambda entry: None if entry[1] == 1 else entry),
        f"{SPLIT_FILE}: class(es) 1 have no images",
    ),
    "one class": (map_entries(lambda entry: entry if entry[1] == 0 else None), "'dtd' has 1 class; at least 2"),
    "unreadable name": (change_class_2(2, "_"), "'dtd': class 2 has an unreadable name ('')"),
    "two names": (
        map_entries(lambda entry: [*entry[:2], str(entry[0]) if entry[1] == 2 else entry[2]]),
        f"{SPLIT_FILE}: class 2 has two names, ",
    ),
    "negative label": (change_class_2(1, -1), "label -1 is out of range; class ids start at 0"),
    "large label": (change_class_2(1, 10**15), f"{SPLIT_FILE}: class(es) 2, 3, 4, … have no images"),
    "superscript label": (change_class_2(1, "²"), "is not of the form [path, class id, class name]"),
    "label is no number": (add_entry("banded/x.jpg", "first", "banded"), f"{INVALID_ENTRY}['banded/x.jpg', 'first'"),
    "no name": (add_entry("banded/x.jpg", 0), "is not of the form [path, class id, class name]"),
    "relative path": (add_entry("../x.jpg", 0, "banded"), f"{INVALID_ENTRY}'../x.jpg' is outside the image folder"),
    "absolute path": (add_entry("/etc/passwd", 0, "banded"), "is outside the image folder"),
    "zero byte in path": (
        map_entries(lambda entry: [f"x\0/{entry[0]}", *entry[1:]] if entry[1] == 2 else entry),
        "9 of 35 listed images are missing (",
    ),
    "deeply nested": (write(SPLIT_FILE, b"[" * 100_000), f"{SPLIT_FILE}: not readable as JSON"),
    "not UTF-8": (write(SPLIT_FILE, b"\xff\xfe"), f"{SPLIT_FILE}: not readable as JSON"),
    "a list": (write(SPLIT_FILE, b"[]"), "not a split file"),
    "no images": (write(SPLIT_FILE, b'{"train": []}'), "no images listed"),
}


@pytest.mark.parametrize(("damage", "reason"), SPLIT_FILES.values(), ids=SPLIT_FILES)
def test_split_files(tmp_path: Path, damage: Damage, reason: str) -> None:
    miniature(tmp_path / "data", "dtd")
    damage(tmp_path / "data")
    assert reason in error_of("dtd", tmp_path / "data", tmp_path / "packed")


LISTS: dict[str, tuple[str, Damage, str]] = {
    "folder link loop": (
        "imagenet_a",
        link("imagenet-adversarial/imagenet-a/n00000001", "."),
        "imagenet-a/n00000001: this link points to a parent folder",
    ),
    "file link loop": (
        "imagenet_a",
        link("imagenet-adversarial/imagenet-a/n01440764/loop.jpg", "loop.jpg"),
        "n01440764/loop.jpg: broken link",
    ),
    "unknown folder": (
        "imagenet_a",
        lambda root: (root / "imagenet-adversarial/imagenet-a/n99999999").mkdir(),
        "n99999999: class not listed in classnames.txt",
    ),
    "class names not UTF-8": (
        "imagenet",
        write("imagenet/classnames.txt", "n01440764 jalapeño\n".encode("latin-1")),
        "imagenet/classnames.txt: byte 16 is not valid UTF-8; save the file as UTF-8",
    ),
    "variants not UTF-8": (
        "fgvc_aircraft",
        write("fgvc_aircraft/variants.txt", "\n737\nAn\xe9tonov\n".encode("latin-1")),
        "fgvc_aircraft/variants.txt: byte 7 is not valid UTF-8",
    ),
    "unlisted name": (
        "fgvc_aircraft",
        write("fgvc_aircraft/images_variant_val.txt", b"\n1025794 Zeppelin\n"),
        "fgvc_aircraft/images_variant_val.txt, line 2: 'Zeppelin' is not listed in variants.txt",
    ),
    "missing list": (
        "fgvc_aircraft",
        remove("fgvc_aircraft/images_variant_val.txt"),
        "images_variant_val.txt: file not found; see CoOp's instructions",
    ),
    "class without folder": (
        "imagenet",
        remove("imagenet/images/train/n02012849"),
        "1 of 12 classes in classnames.txt",
    ),
    "number out of range": (
        "imagenet_v2",
        lambda root: (root / "imagenetv2/imagenetv2-matched-frequency-format-val/12").mkdir(),
        "val/12: label out of range; folder names must be 0 to 11, the line numbers in classnames.txt",
    ),
    **{
        f"no {DATASETS[name].names}": (
            name,
            remove(f"{DATASETS[name].folder}/{DATASETS[name].names}"),
            f"{DATASETS[name].names}: file not found; see CoOp's instructions for download and layout: "
            "https://github.com/KaiyangZhou/CoOp",
        )
        for name in ("dtd", "fgvc_aircraft", "imagenet")
    },
}


@pytest.mark.parametrize(("name", "damage", "reason"), LISTS.values(), ids=LISTS)
def test_lists_and_class_folders(tmp_path: Path, name: str, damage: Damage, reason: str) -> None:
    miniature(tmp_path / "data", name)
    damage(tmp_path / "data")
    assert reason in error_of(name, tmp_path / "data", tmp_path / "packed")


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    expected = miniature(tmp_path, "imagenet_a")
    file = tmp_path / "imagenet-adversarial" / "classnames.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    dataset = read_dataset(DatasetSettings(name="imagenet_a", root=str(tmp_path)))
    assert dataset.classnames == expected.classnames


def empty_class(folder: Path) -> None:
    for path in (folder / "red_circle").iterdir():
        path.unlink()


def keep_one_class(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != "red_circle":
            shutil.rmtree(path)


FOLDERS: dict[str, tuple[Damage, str]] = {
    "no folder": (remove("."), "mine does not exist"),
    "no classes": (lambda folder: [shutil.rmtree(path) for path in folder.iterdir()], "no class folders"),
    "class without image": (empty_class, "no test images for class 'red_circle'"),
    "one class": (keep_one_class, "only one class ('red_circle')"),
    "equal names": (
        lambda folder: shutil.copytree(folder / "red_circle", folder / "red circle"),
        "classes 4 and 5 share the name 'red circle'",
    ),
    "unreadable name": (
        lambda folder: (folder / "red_circle").rename(folder / "_"),
        "has an unreadable name ('')",
    ),
    "truncated image": (write("red_circle/000.png", HALF), "red_circle/000.png: unreadable image: "),
    "text as image": (write("red_circle/000.png", b"notes"), "red_circle/000.png: unreadable image: not a JPEG"),
    "folder link loop": (link("loop", ".."), "mine/loop: this link points to a parent folder"),
    "file link loop": (link("red_circle/x.png", "x.png"), "red_circle/x.png: broken link"),
}


@pytest.mark.parametrize(("damage", "reason"), FOLDERS.values(), ids=FOLDERS)
def test_class_folders(tmp_path: Path, damage: Damage, reason: str) -> None:
    folder_of_folders(tmp_path / "mine", per_class=4)
    damage(tmp_path / "mine")
    assert reason in error_of(str(tmp_path / "mine"), None, tmp_path / "packed")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("none.png,1,b", "table.csv: 1 of 4 listed images are missing ("),
        ("red_circle/000.png,-1,b", "table.csv, row 4: label -1 is out of range; class ids start at 0"),
        ("red_circle/000.png,0,b", "table.csv, row 4: class 0 has two names, 'a' and 'b'"),
        ("red_circle/000.png,2,c", "class(es) 1 have no images; ids must be contiguous"),
        ("red_circle/003.png,1000000000000,c", "class(es) 1, 2, 3, … have no images"),
        ("red_circle/003.png,²,b", "class '²' has 1 image; a random split requires at least 3"),
        ("red_circle/003.png,0,a", "has 1 class; at least 2"),
        ("./red_circle/000.png,0,a", "red_circle/000.png is already listed in "),
        (",0,a", "table.csv, row 4: empty path or label"),
        ("red_circle/000.png,,a", "table.csv, row 4: empty path or label"),
    ],
)
def test_rows_of_a_table(tmp_path: Path, row: str, reason: str) -> None:
    folder_of_folders(tmp_path, per_class=4)
    lines = ["path,label,classname", *(f"red_circle/{number:03d}.png,0,a" for number in range(3)), row]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    assert reason in error_of(str(tmp_path / "table.csv"), None, tmp_path / "packed")
