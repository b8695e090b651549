"""The literature's benchmarks as one table: eleven data sets with training pictures, and four variants of ImageNet.

They are read as CoOp's instructions lay them out below one folder; see `layouts` for how. The pictures are the users'
own to get: nothing is fetched, and each data set's licence holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

INSTRUCTIONS = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
"""Tells where pictures and split files come from, and how to lay them out."""

Layout = Literal["split file", "name lists", "wordnet folders", "numbered folders"]


@dataclass(frozen=True)
class Dataset:
    """One benchmark of the literature: where its files lie, and what must be found in them.

    Attributes:
        folder: below the root.
        images: where the pictures lie, below `folder`; "" for the folder itself.
        names: the file that gives classes: a split file (JSON), `variants.txt`, or `classnames.txt`.
        layout: how the files are to be read.
        splits: below `images`, the folder of each split, where the layout has such.
        classes: that are told apart; fewer than `classnames.txt` has where only some have pictures.
        train, val, test: pictures; None where there is no such split.
        partial: whether classes without a folder are no candidates, instead of a mistake.
    """

    name: str
    folder: str
    images: str
    names: str
    layout: Layout
    classes: int
    train: int | None
    val: int | None
    test: int
    template: str
    licence: str
    cite: str
    splits: tuple[tuple[Literal["train", "test"], str], ...] = ()
    partial: bool = False


def _split_file(
    name: str,
    folder: str,
    images: str,
    names: str,
    classes: int,
    counts: tuple[int, int, int],
    template: str,
    licence: str,
    cite: str,
) -> Dataset:
    return Dataset(
        name, folder, images, f"split_zhou_{names}.json", "split file", classes, *counts, template, licence, cite
    )


def _variant(
    name: str,
    folder: str,
    images: str,
    classes: int,
    test: int,
    cite: str,
    layout: Layout = "wordnet folders",
    partial: bool = False,
) -> Dataset:
    """A test set for prompts that were learned on ImageNet; its ids are those of ImageNet."""
    return Dataset(
        name=name,
        folder=folder,
        images=images,
        names="classnames.txt",
        layout=layout,
        classes=classes,
        train=None,
        val=None,
        test=test,
        template="a photo of a {}.",
        licence="MIT",
        cite=cite,
        splits=(("test", ""),),
        partial=partial,
    )


RESEARCH, UNSTATED = "non-commercial research", "not stated"

_DATASETS = (
    Dataset(
        name="imagenet",
        folder="imagenet",
        images="images",
        names="classnames.txt",
        layout="wordnet folders",
        classes=1000,
        train=1_281_167,
        val=None,
        test=50_000,
        template="a photo of a {}.",
        licence=RESEARCH,
        cite="Deng et al., CVPR 2009; Russakovsky et al., arXiv 1409.0575",
        splits=(("train", "train"), ("test", "val")),
    ),
    _split_file(
        "caltech101", "caltech-101", "101_ObjectCategories", "Caltech101",
        100, (4_128, 1_649, 2_465), "a photo of a {}.",
        "CC BY 4.0", "Fei-Fei et al., CVPR Workshops 2004",
    ),
    _split_file(
        "oxford_pets", "oxford_pets", "images", "OxfordPets",
        37, (2_944, 736, 3_669), "a photo of a {}, a type of pet.",
        "CC BY-SA 4.0", "Parkhi et al., CVPR 2012",
    ),
    _split_file(
        "stanford_cars", "stanford_cars", "", "StanfordCars",
        196, (6_509, 1_635, 8_041), "a photo of a {}.",
        RESEARCH, "Krause et al., ICCV Workshops 2013",
    ),
    _split_file(
        "flowers102", "oxford_flowers", "jpg", "OxfordFlowers",
        102, (4_093, 1_633, 2_463), "a photo of a {}, a type of flower.",
        UNSTATED, "Nilsback and Zisserman, ICVGIP 2008",
    ),
    _split_file(
        "food101", "food-101", "images", "Food101",
        101, (50_500, 20_200, 30_300), "a photo of {}, a type of food.",
        UNSTATED, "Bossard et al., ECCV 2014",
    ),
    Dataset(
        name="fgvc_aircraft",
        folder="fgvc_aircraft",
        images="images",
        names="variants.txt",
        layout="name lists",
        classes=100,
        train=3_334,
        val=3_333,
        test=3_333,
        template="a photo of a {}, a type of aircraft.",
        licence=RESEARCH,
        cite="Maji et al., arXiv 1306.5151",
    ),
    _split_file(
        "sun397", "sun397", "SUN397", "SUN397",
        397, (15_880, 3_970, 19_850), "a photo of a {}.",
        UNSTATED, "Xiao et al., CVPR 2010",
    ),
    _split_file(
        "dtd", "dtd", "images", "DescribableTextures",
        47, (2_820, 1_128, 1_692), "{} texture.",
        "research", "Cimpoi et al., CVPR 2014",
    ),
    _split_file(
        "eurosat", "eurosat", "2750", "EuroSAT",
        10, (13_500, 5_400, 8_100), "a centered satellite photo of {}.",
        "MIT", "Helber et al., JSTARS 2019, arXiv 1709.00029",
    ),
    _split_file(
        "ucf101", "ucf101", "UCF-101-midframes", "UCF101",
        101, (7_639, 1_898, 3_783), "a photo of a person doing {}.",
        UNSTATED, "Soomro et al., arXiv 1212.0402",
    ),
    _variant(
        "imagenet_v2", "imagenetv2", "imagenetv2-matched-frequency-format-val",
        1000, 10_000, "Recht et al., arXiv 1902.10811", layout="numbered folders",
    ),
    _variant("imagenet_sketch", "imagenet-sketch", "images", 1000, 50_889, "Wang et al., arXiv 1905.13549"),
    _variant(
        "imagenet_a", "imagenet-adversarial", "imagenet-a",
        200, 7_500, "Hendrycks et al., arXiv 1907.07174", partial=True,
    ),
    _variant(
        "imagenet_r", "imagenet-rendition", "imagenet-r",
        200, 30_000, "Hendrycks et al., arXiv 2006.16241", partial=True,
    ),
)  # fmt: skip

DATASETS = {dataset.name: dataset for dataset in _DATASETS}
"""By name. Counts are those of the published split files; templates are the hand-written ones of CoOp."""
