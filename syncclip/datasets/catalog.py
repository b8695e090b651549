"""The literature's datasets as one table: eleven datasets with training images, and four variants of ImageNet.

They are read as CoOp's instructions lay them out below one folder; see `layouts` for how. The images are the users'
own to get: nothing is fetched, and each dataset's licence holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

INSTRUCTIONS = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
"""Tells where images and split files come from, and how to lay them out."""

Layout = Literal["split file", "name lists", "wordnet folders", "numbered folders"]


@dataclass(frozen=True)
class CatalogEntry:
    """One dataset of the literature: where its files lie, and what must be found in them.

    Attributes:
        folder: below the root.
        images: where the images lie, below `folder`; "" for the folder itself.
        names: the file that gives classes: a split file (JSON), `variants.txt`, or `classnames.txt`.
        layout: how the files are to be read.
        splits: below `images`, the folder of each split, where the layout has such.
        classes: that are told apart; fewer than `classnames.txt` has where only some have images.
        train, val, test: images; None where there is no such split.
        licence: of the images, as their page or a copy of it tells; None where neither does, so that `page` must be
            asked. `docs/data.md` says who told it.
        page: the dataset's own.
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
    licence: str | None
    page: str
    cite: str
    splits: tuple[tuple[Literal["train", "test"], str], ...] = ()
    partial: bool = False

    @property
    def terms(self) -> str:
        """The licence, or that it has to be looked for."""
        return self.licence or "see its page"


def _split_file(
    name: str,
    folder: str,
    images: str,
    names: str,
    classes: int,
    counts: tuple[int, int, int],
    template: str,
    licence: str | None,
    page: str,
    cite: str,
) -> CatalogEntry:
    return CatalogEntry(
        name, folder, images, f"split_zhou_{names}.json", "split file", classes, *counts, template, licence, page, cite
    )


def _variant(
    name: str,
    folder: str,
    images: str,
    classes: int,
    test: int,
    licence: str | None,
    page: str,
    cite: str,
    layout: Layout = "wordnet folders",
    partial: bool = False,
) -> CatalogEntry:
    """A test set for prompts that were learned on ImageNet; its ids are those of ImageNet."""
    return CatalogEntry(
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
        licence=licence,
        page=page,
        cite=cite,
        splits=(("test", ""),),
        partial=partial,
    )


RESEARCH = "non-commercial research"
VGG = "https://www.robots.ox.ac.uk/~vgg/data"

_DATASETS = (
    CatalogEntry(
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
        licence=f"{RESEARCH} and education",
        page="https://image-net.org",
        cite="Deng et al., CVPR 2009; Russakovsky et al., arXiv 1409.0575",
        splits=(("train", "train"), ("test", "val")),
    ),
    _split_file(
        "caltech101", "caltech-101", "101_ObjectCategories", "Caltech101",
        100, (4_128, 1_649, 2_465), "a photo of a {}.",
        "CC BY 4.0", "https://data.caltech.edu/records/mzrjq-6wc02", "Fei-Fei et al., CVPR Workshops 2004",
    ),
    _split_file(
        "oxford_pets", "oxford_pets", "images", "OxfordPets",
        37, (2_944, 736, 3_669), "a photo of a {}, a type of pet.",
        "CC BY-SA 4.0", f"{VGG}/pets", "Parkhi et al., CVPR 2012",
    ),
    _split_file(
        "stanford_cars", "stanford_cars", "", "StanfordCars",
        196, (6_509, 1_635, 8_041), "a photo of a {}.",
        None, "https://ai.stanford.edu/~jkrause/cars/car_dataset.html", "Krause et al., ICCV Workshops 2013",
    ),
    _split_file(
        "flowers102", "oxford_flowers", "jpg", "OxfordFlowers",
        102, (4_093, 1_633, 2_463), "a photo of a {}, a type of flower.",
        None, f"{VGG}/flowers/102", "Nilsback and Zisserman, ICVGIP 2008",
    ),
    _split_file(
        "food101", "food-101", "images", "Food101",
        101, (50_500, 20_200, 30_300), "a photo of {}, a type of food.",
        "scientific fair use", "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        "Bossard et al., ECCV 2014",
    ),
    CatalogEntry(
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
        page=f"{VGG}/fgvc-aircraft",
        cite="Maji et al., arXiv 1306.5151",
    ),
    _split_file(
        "sun397", "sun397", "SUN397", "SUN397",
        397, (15_880, 3_970, 19_850), "a photo of a {}.",
        None, "https://vision.princeton.edu/projects/2010/SUN", "Xiao et al., CVPR 2010",
    ),
    _split_file(
        "dtd", "dtd", "images", "DescribableTextures",
        47, (2_820, 1_128, 1_692), "{} texture.",
        "research", f"{VGG}/dtd", "Cimpoi et al., CVPR 2014",
    ),
    _split_file(
        "eurosat", "eurosat", "2750", "EuroSAT",
        10, (13_500, 5_400, 8_100), "a centered satellite photo of {}.",
        "MIT", "https://github.com/phelber/EuroSAT", "Helber et al., JSTARS 2019, arXiv 1709.00029",
    ),
    _split_file(
        "ucf101", "ucf101", "UCF-101-midframes", "UCF101",
        101, (7_639, 1_898, 3_783), "a photo of a person doing {}.",
        None, "https://www.crcv.ucf.edu/data/UCF101.php", "Soomro et al., arXiv 1212.0402",
    ),
    _variant(
        "imagenet_v2", "imagenetv2", "imagenetv2-matched-frequency-format-val",
        1000, 10_000, "as ImageNet's", "https://github.com/modestyachts/ImageNetV2", "Recht et al., arXiv 1902.10811",
        layout="numbered folders",
    ),
    _variant(
        "imagenet_sketch", "imagenet-sketch", "images",
        1000, 50_889, "MIT", "https://github.com/HaohanWang/ImageNet-Sketch", "Wang et al., arXiv 1905.13549",
    ),
    _variant(
        "imagenet_a", "imagenet-adversarial", "imagenet-a",
        200, 7_500, "MIT", "https://github.com/hendrycks/natural-adv-examples", "Hendrycks et al., arXiv 1907.07174",
        partial=True,
    ),
    _variant(
        "imagenet_r", "imagenet-rendition", "imagenet-r",
        200, 30_000, None, "https://github.com/hendrycks/imagenet-r", "Hendrycks et al., arXiv 2006.16241",
        partial=True,
    ),
)  # fmt: skip

DATASETS = {entry.name: entry for entry in _DATASETS}
"""By name. Counts are those of the published split files; templates are the hand-written ones of CoOp."""
