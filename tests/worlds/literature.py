"""Miniatures of the literature's datasets: generated images in the original file formats."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from tests.worlds.dataset import encoded, make_image

SPLIT_SIZES = {"train": 6, "val": 3, "test": 4}
"""Images per class; the last class has only `FEW` training images."""
FEW = 2
Items = dict[str, list[tuple[str, int]]]


@dataclass
class Miniature:
    """Expected content of a miniature, recorded when its files were written."""

    name: str
    classnames: list[str]
    """Names in prompts, by id."""
    items: Items
    """Split -> (path below the root, class id), in the order of the split file."""
    template: str
    candidates: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Miniatures:
    """Root folder and expected content of all datasets."""

    root: Path
    of: dict[str, Miniature]


def save(path: Path, label: int, variant: int) -> None:
    """Write a generated image of a class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(make_image(label, variant, 24), "PNG" if path.suffix == ".png" else "JPEG"))


SPLIT_FILES: dict[str, tuple[str, str, str, list[tuple[str, str]], str]] = {
    # name: (folder, images below it, split file, [(class name in the file, path pattern)], template)
    "caltech101": (
        "caltech-101",
        "101_ObjectCategories",
        "split_zhou_Caltech101.json",
        [
            ("face", "Faces/image_{:04d}.jpg"),
            ("leopard", "Leopards/image_{:04d}.jpg"),
            ("motorbike", "Motorbikes/image_{:04d}.jpg"),
            ("airplane", "airplanes/image_{:04d}.jpg"),
            ("wild_cat", "wild_cat/image_{:04d}.jpg"),
        ],
        "a photo of a {}.",
    ),
    "oxford_pets": (
        "oxford_pets",
        "images",
        "split_zhou_OxfordPets.json",
        [
            ("abyssinian", "Abyssinian_{}.jpg"),
            ("american_bulldog", "american_bulldog_{}.jpg"),
            ("yorkshire_terrier", "yorkshire_terrier_{}.jpg"),
        ],
        "a photo of a {}, a type of pet.",
    ),
    "stanford_cars": (
        "stanford_cars",
        "",
        "split_zhou_StanfordCars.json",
        [
            ("2000 AM General Hummer SUV", "cars_train/0{:04d}.jpg"),
            ("2012 Acura RL Sedan", "cars_train/1{:04d}.jpg"),
            ("2012 smart fortwo Convertible", "cars_test/2{:04d}.jpg"),
        ],
        "a photo of a {}.",
    ),
    "flowers102": (
        "oxford_flowers",
        "jpg",
        "split_zhou_OxfordFlowers.json",
        [
            ("pink primrose", "image_0{:04d}.jpg"),
            ("bird of paradise", "image_1{:04d}.jpg"),
            ("black-eyed susan", "image_2{:04d}.jpg"),
            ("colt's foot", "image_3{:04d}.jpg"),
        ],
        "a photo of a {}, a type of flower.",
    ),
    "food101": (
        "food-101",
        "images",
        "split_zhou_Food101.json",
        [
            ("apple_pie", "apple_pie/{}.jpg"),
            ("foie_gras", "foie_gras/{}.jpg"),
            ("waffles", "waffles/{}.jpg"),
        ],
        "a photo of {}, a type of food.",
    ),
    "sun397": (
        "sun397",
        "SUN397",
        "split_zhou_SUN397.json",
        [
            ("abbey", "a/abbey/sun_{}.jpg"),
            ("indoor_apse", "a/apse/indoor/sun_{}.jpg"),
            ("outdoor_zoo", "z/zoo/outdoor/sun_{}.jpg"),
        ],
        "a photo of a {}.",
    ),
    "dtd": (
        "dtd",
        "images",
        "split_zhou_DescribableTextures.json",
        [
            ("banded", "banded/banded_{:04d}.jpg"),
            ("polka-dotted", "polka-dotted/polka-dotted_{:04d}.jpg"),
            ("zigzagged", "zigzagged/zigzagged_{:04d}.jpg"),
        ],
        "{} texture.",
    ),
    "eurosat": (
        "eurosat",
        "2750",
        "split_zhou_EuroSAT.json",
        [
            ("Annual Crop Land", "AnnualCrop/AnnualCrop_{}.jpg"),
            ("Sea or Lake", "SeaLake/SeaLake_{}.jpg"),
            ("Residential Buildings", "Residential/Residential_{}.jpg"),
        ],
        "a centered satellite photo of {}.",
    ),
    "ucf101": (
        "ucf101",
        "UCF-101-midframes",
        "split_zhou_UCF101.json",
        [
            ("Apply_Eye_Makeup", "Apply_Eye_Makeup/v_ApplyEyeMakeup_g{:02d}_c01.jpg"),
            ("Hula_Hoop", "Hula_Hoop/v_HulaHoop_g{:02d}_c01.jpg"),
            ("Yo_Yo", "Yo_Yo/v_YoYo_g{:02d}_c01.jpg"),
        ],
        "a photo of a person doing {}.",
    ),
}

WORDNET = [f"n{number:08d}" for number in (1440764, 1443537, 2012849, 3126707, 3710637, 3710721, 4371430, 9193705,
                                             10148035, 11879895, 12057211, 15075141)]  # fmt: skip
WORDNET_NAMES = ["tench", "goldfish", "crane", "crane", "maillot", "maillot", "swim_trunks", "alp", "groom", "rapeseed",
                 "yellow lady's slipper", "toilet paper"]  # fmt: skip
"""Twelve classes, so that the folders 0 … 11 sort differently by name and number; two names occur twice."""
SPOKEN = [name.replace("_", " ") for name in WORDNET_NAMES]
ADVERSARIAL, RENDITION = [0, 3, 5, 8, 11], [1, 3, 7, 11]


def split_file_miniature(root: Path, name: str, seed: int = 0) -> Miniature:
    """Build one of the nine datasets with a split file."""
    folder, images, file, classes, template = SPLIT_FILES[name]
    generator = random.Random(f"{name} {seed}")
    items: Items = {}
    number = 1
    for split, size in SPLIT_SIZES.items():
        items[split] = []
        for label in range(len(classes)):
            for _ in range(FEW if split == "train" and label == len(classes) - 1 else size):
                items[split].append((classes[label][1].format(number), label))
                number += 1
        generator.shuffle(items[split])
    for variant, (path, label) in enumerate(item for listed in items.values() for item in listed):
        save(root / folder / images / path, label, variant)
    written = {split: [[path, label, classes[label][0]] for path, label in listed] for split, listed in items.items()}
    (root / folder / file).write_text(json.dumps(written))
    below = f"{folder}/{images}/" if images else f"{folder}/"
    expected = {split: [(below + path, label) for path, label in listed] for split, listed in items.items()}
    ids = list(range(len(classes)))
    return Miniature(name, [classname.replace("_", " ") for classname, _ in classes], expected, template, ids)


def aircraft_miniature(root: Path) -> Miniature:
    """Build FGVC's lists, with names that are not sorted and contain spaces and slashes."""
    folder, names = root / "fgvc_aircraft", ["737-200", "707-320", "DH-82", "F/A-18", "Eurofighter Typhoon"]
    folder.mkdir(parents=True)
    (folder / "variants.txt").write_text("".join(f"{name}\n" for name in names))
    generator, items, number = random.Random(1), {}, 1025794
    for split, size in SPLIT_SIZES.items():
        listed = [(label, number + 100 * label + i) for label in range(len(names)) for i in range(size)]
        number += 1000
        generator.shuffle(listed)
        lines = [f"{image_id} {names[label]}\n" for label, image_id in listed]
        (folder / f"images_variant_{split}.txt").write_text("".join(lines))
        items[split] = [(f"fgvc_aircraft/images/{image_id}.jpg", label) for label, image_id in listed]
        for label, image_id in listed:
            save(folder / "images" / f"{image_id}.jpg", label, image_id)
    return Miniature("fgvc_aircraft", names, items, "a photo of a {}, a type of aircraft.", list(range(len(names))))


def imagenet_miniature(root: Path) -> Miniature:
    """Build folders named by WordNet ids, without a validation split."""
    folder = root / "imagenet"
    _classnames(folder)
    items: Items = {"train": [], "test": []}
    for split, below, count in (("train", "train", 6), ("test", "val", 3)):
        for label, wordnet in enumerate(WORDNET):
            for i in range(FEW if split == "train" and label == 11 else count):
                path = f"imagenet/images/{below}/{wordnet}/{wordnet}_{i}.JPEG"
                save(root / path, label, i)
                items[split].append((path, label))
    return Miniature("imagenet", SPOKEN, items, "a photo of a {}.", list(range(12)))


def variant_miniature(root: Path, name: str) -> Miniature:
    """Build a variant of ImageNet, with a README.txt and hidden files beside the class folders."""
    folder, images, labels = {
        "imagenet_v2": ("imagenetv2", "imagenetv2-matched-frequency-format-val", list(range(12))),
        "imagenet_sketch": ("imagenet-sketch", "images", list(range(12))),
        "imagenet_a": ("imagenet-adversarial", "imagenet-a", ADVERSARIAL),
        "imagenet_r": ("imagenet-rendition", "imagenet-r", RENDITION),
    }[name]
    _classnames(root / folder)
    items: Items = {"test": []}
    for label in labels:
        folder_name = str(label) if name == "imagenet_v2" else WORDNET[label]
        for i in range(2):
            path = f"{folder}/{images}/{folder_name}/{i:08x}.{'png' if name == 'imagenet_sketch' else 'jpg'}"
            save(root / path, label, i)
            items["test"].append((path, label))
    (root / folder / images / "README.txt").write_text("about")
    (root / folder / images / ".DS_Store").write_bytes(b"?")
    (root / folder / images / ".cache").mkdir()
    return Miniature(name, SPOKEN, items, "a photo of a {}.", labels)


def miniature(root: Path, name: str) -> Miniature:
    """Build one of the fifteen datasets below `root`."""
    if name == "caltech101":  # images that are not listed in the split file
        save(root / "caltech-101/101_ObjectCategories/BACKGROUND_Google/image_0001.jpg", 0, 0)
        save(root / "caltech-101/101_ObjectCategories/Faces_easy/image_0001.jpg", 1, 0)
    if name in SPLIT_FILES:
        return split_file_miniature(root, name)
    if name == "fgvc_aircraft":
        return aircraft_miniature(root)
    return imagenet_miniature(root) if name == "imagenet" else variant_miniature(root, name)


def _classnames(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{wordnet} {name}\n" for wordnet, name in zip(WORDNET, WORDNET_NAMES, strict=True)]
    (folder / "classnames.txt").write_text("".join(lines))
