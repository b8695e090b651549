"""The shipped datasets: the source of each image and the content of the splits."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import pytest

from scripts.embedded.dataset import SETS
from scripts.embedded.drawings import CONCEPTS, FAMILIES, concept_names, normalise
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.datasets.loading import suite_of
from syncclip.embedded import FOLDER
from syncclip.shards.reader import ShardSet
from tests.embedded.test_families import designer

SUITE = suite_of(DatasetSettings(name="icons"))


@dataclass(frozen=True)
class Source:
    """Source and label of an image."""

    name: str
    family: str
    icon: str
    classname: str


Splits = dict[str, list[Source]]


def sources(split: str) -> list[Source]:
    """Sources of a split's images in all datasets."""
    result = []
    for dataset, settings in SUITE.items():
        images = ShardSet(str(FOLDER / "icons/dataset" / dataset / split))
        classnames = load_dataset(settings).classnames
        for row in range(len(images)):
            text = images.text(row)
            match = re.fullmatch(r"(.+) \(([a-z0-9-]+):([^:)]+)\)", text)
            assert match, f"{dataset}, {split} {row}: {text!r} names no icon set and icon"
            result.append(Source(*match.groups(), classnames[int(images.labels[row])]))
    return result


@pytest.fixture(scope="module")
def splits() -> Splits:
    return {split: sources(split) for split in ("train", "val", "test")}


def test_each_image_comes_from_an_icon_set_of_the_datasets(splits: Splits) -> None:
    names = {family: facts["name"] for family, facts in SETS.items()}
    used = {(source.family, source.name) for split in splits.values() for source in split}
    assert used <= names.items()
    assert not {family for family, _ in used} & set(FAMILIES["pretraining"])


def test_designers_of_val_and_test_images_are_absent_from_pretraining(splits: Splits) -> None:
    designers = {designer(SETS[source.family]["author"]) for split in ("test", "val") for source in splits[split]}
    assert not designers & {designer(facts["author"]) for facts in FAMILIES["pretraining"].values()}


def test_a_designers_drawings_of_a_class_are_in_one_split(splits: Splits) -> None:
    authors = {
        split: {(source.classname, SETS[source.family]["author"]) for source in images}
        for split, images in splits.items()
    }
    assert not authors["test"] & (authors["train"] | authors["val"]) and not authors["train"] & authors["val"]


def test_the_class_of_an_image_is_the_name_of_its_icon(splits: Splits) -> None:
    concepts = concept_names()
    for split in splits.values():
        for source in split:
            assert concepts.get(normalise(source.family, source.icon)) == source.classname, source


def test_each_drawing_is_in_one_split(splits: Splits) -> None:
    uses = Counter((source.family, source.icon) for split in splits.values() for source in split)
    assert [drawing for drawing, count in uses.items() if count > 1] == []


def test_the_datasets_partition_the_classes(splits: Splits) -> None:
    datasets = [load_dataset(settings) for settings in SUITE.values()]
    assert sorted(SUITE) == sorted(CONCEPTS["datasets"])
    assert sorted(name for dataset in datasets for name in dataset.classnames) == sorted(CONCEPTS["classes"])
    assert all(abs(len(dataset.novel) - len(dataset.base)) <= 1 for dataset in datasets)
    counts = {split: Counter(source.classname for source in images) for split, images in splits.items()}
    assert all(len(by_class) == 88 for by_class in counts.values())
    assert min(counts["test"].values()) >= 5 and counts["test"].total() >= 1500
