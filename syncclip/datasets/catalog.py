"""Benchmark datasets from the literature: eleven with training images, and four variants of ImageNet.

All datasets are read from one root folder in CoOp's layout (see `layouts`). Users must download the images themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

INSTRUCTIONS = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
"""CoOp's instructions for downloading and arranging images and split files."""

Layout = Literal["split file", "name lists", "wordnet folders", "numbered folders"]


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """File locations and expected content of a benchmark dataset.

    Attributes:
        folder: dataset folder, relative to the root.
        images: image folder, relative to `folder`; "" for `folder` itself.
        names: file with the class names (a split file in JSON, `variants.txt` or `classnames.txt`).
        classes: number of candidate classes, excluding classes in `classnames.txt` that have no images.
        train, val, test: number of images in the split; None if the split does not exist.
        licence: licence of the images; None: unknown (see `page`).
        page: homepage of the dataset.
        splits: folder of each split, relative to `images`, for layouts with class folders.
        partial: whether to exclude classes without a folder from the candidate classes instead of raising an error.
    """

    name: str
    folder: str
    images: str
    names: str
    layout: Layout = "split file"
    classes: int
    train: int | None = None
    val: int | None = None
    test: int
    template: str = "a photo of a {}."
    licence: str | None = None
    page: str
    cite: str
    splits: tuple[tuple[Literal["train", "test"], str], ...] = ()
    partial: bool = False


RESEARCH = "non-commercial research"
VGG = "https://www.robots.ox.ac.uk/~vgg/data"

_DATASETS = (
    CatalogEntry(
        name="imagenet", folder="imagenet", images="images", names="classnames.txt",
        layout="wordnet folders", splits=(("train", "train"), ("test", "val")),
        classes=1_000, train=1_281_167, test=50_000,
        licence=f"{RESEARCH} and education", page="https://image-net.org",
        cite="Deng et al., CVPR 2009; Russakovsky et al., arXiv 1409.0575",
    ),
    CatalogEntry(
        name="caltech101", folder="caltech-101", images="101_ObjectCategories", names="split_zhou_Caltech101.json",
        classes=100, train=4_128, val=1_649, test=2_465,
        licence="CC BY 4.0", page="https://data.caltech.edu/records/mzrjq-6wc02",
        cite="Fei-Fei et al., CVPR Workshops 2004",
    ),
    CatalogEntry(
        name="oxford_pets", folder="oxford_pets", images="images", names="split_zhou_OxfordPets.json",
        classes=37, train=2_944, val=736, test=3_669, template="a photo of a {}, a type of pet.",
        licence="CC BY-SA 4.0", page=f"{VGG}/pets", cite="Parkhi et al., CVPR 2012",
    ),
    CatalogEntry(
        name="stanford_cars", folder="stanford_cars", images="", names="split_zhou_StanfordCars.json",
        classes=196, train=6_509, val=1_635, test=8_041,
        page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html", cite="Krause et al., ICCV Workshops 2013",
    ),
    CatalogEntry(
        name="flowers102", folder="oxford_flowers", images="jpg", names="split_zhou_OxfordFlowers.json",
        classes=102, train=4_093, val=1_633, test=2_463, template="a photo of a {}, a type of flower.",
        page=f"{VGG}/flowers/102", cite="Nilsback and Zisserman, ICVGIP 2008",
    ),
    CatalogEntry(
        name="food101", folder="food-101", images="images", names="split_zhou_Food101.json",
        classes=101, train=50_500, val=20_200, test=30_300, template="a photo of {}, a type of food.",
        licence="scientific fair use", page="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        cite="Bossard et al., ECCV 2014",
    ),
    CatalogEntry(
        name="fgvc_aircraft", folder="fgvc_aircraft", images="images", names="variants.txt",
        layout="name lists",
        classes=100, train=3_334, val=3_333, test=3_333, template="a photo of a {}, a type of aircraft.",
        licence=RESEARCH, page=f"{VGG}/fgvc-aircraft", cite="Maji et al., arXiv 1306.5151",
    ),
    CatalogEntry(
        name="sun397", folder="sun397", images="SUN397", names="split_zhou_SUN397.json",
        classes=397, train=15_880, val=3_970, test=19_850,
        page="https://vision.princeton.edu/projects/2010/SUN", cite="Xiao et al., CVPR 2010",
    ),
    CatalogEntry(
        name="dtd", folder="dtd", images="images", names="split_zhou_DescribableTextures.json",
        classes=47, train=2_820, val=1_128, test=1_692, template="{} texture.",
        licence="research", page=f"{VGG}/dtd", cite="Cimpoi et al., CVPR 2014",
    ),
    CatalogEntry(
        name="eurosat", folder="eurosat", images="2750", names="split_zhou_EuroSAT.json",
        classes=10, train=13_500, val=5_400, test=8_100, template="a centered satellite photo of {}.",
        licence="MIT", page="https://github.com/phelber/EuroSAT", cite="Helber et al., JSTARS 2019, arXiv 1709.00029",
    ),
    CatalogEntry(
        name="ucf101", folder="ucf101", images="UCF-101-midframes", names="split_zhou_UCF101.json",
        classes=101, train=7_639, val=1_898, test=3_783, template="a photo of a person doing {}.",
        page="https://www.crcv.ucf.edu/data/UCF101.php", cite="Soomro et al., arXiv 1212.0402",
    ),
    CatalogEntry(
        name="imagenet_v2", folder="imagenetv2", images="imagenetv2-matched-frequency-format-val",
        names="classnames.txt",
        layout="numbered folders", splits=(("test", ""),),
        classes=1_000, test=10_000,
        licence="same as ImageNet", page="https://github.com/modestyachts/ImageNetV2",
        cite="Recht et al., arXiv 1902.10811",
    ),
    CatalogEntry(
        name="imagenet_sketch", folder="imagenet-sketch", images="images", names="classnames.txt",
        layout="wordnet folders", splits=(("test", ""),),
        classes=1_000, test=50_889,
        licence="MIT", page="https://github.com/HaohanWang/ImageNet-Sketch", cite="Wang et al., arXiv 1905.13549",
    ),
    CatalogEntry(
        name="imagenet_a", folder="imagenet-adversarial", images="imagenet-a", names="classnames.txt",
        layout="wordnet folders", splits=(("test", ""),), partial=True,
        classes=200, test=7_500,
        licence="MIT", page="https://github.com/hendrycks/natural-adv-examples",
        cite="Hendrycks et al., arXiv 1907.07174",
    ),
    CatalogEntry(
        name="imagenet_r", folder="imagenet-rendition", images="imagenet-r", names="classnames.txt",
        layout="wordnet folders", splits=(("test", ""),), partial=True,
        classes=200, test=30_000,
        page="https://github.com/hendrycks/imagenet-r", cite="Hendrycks et al., arXiv 2006.16241",
    ),
)  # fmt: skip

DATASETS = {entry.name: entry for entry in _DATASETS}
"""Benchmark datasets by name, with CoOp's templates and the image counts of the published split files."""
