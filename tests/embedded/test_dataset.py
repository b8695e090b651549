"""The shipped datasets: where each image comes from, what the splits hold."""

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

NAMES = {family: facts["name"] for family, facts in SETS.items()}
SUITE = suite_of(DatasetSettings(name="icons"))


@dataclass(frozen=True)
class Source:
    """Where an image comes from, and what it is said to show."""

    name: str
    family: str
    icon: str
    classname: str


def sources(split: str) -> list[Source]:
    """Of every image of all datasets."""
    found = []
    for dataset, settings in SUITE.items():
        images = ShardSet(str(FOLDER / "icons/dataset" / dataset / split))
        classnames = load_dataset(settings).classnames
        for row in range(len(images)):
            text = images.text(row)
            match = re.fullmatch(r"(.+) \(([a-z0-9-]+):([^:)]+)\)", text)
            assert match, f"{dataset}, {split} {row}: {text!r} does not name set and icon"
            found.append(Source(*match.groups(), classnames[int(images.labels[row])]))
    return found


@pytest.fixture(scope="module")
def splits() -> Splits:
    return {split: sources(split) for split in ("train", "val", "test")}


Splits = dict[str, list[Source]]


def test_every_image_names_a_set_of_the_datasets(splits: Splits) -> None:
    wrong = [one for part in splits.values() for one in part if NAMES.get(one.family) != one.name]

    assert wrong == []


def test_no_image_comes_from_a_pretraining_set(splits: Splits) -> None:
    used = {one.family for part in splits.values() for one in part}

    assert not used & set(FAMILIES["pretraining"])


def test_designers_of_test_and_validation_images_drew_nothing_for_pretraining(splits: Splits) -> None:
    authors = {designer(SETS[one.family]["author"]) for split in ("test", "val") for one in splits[split]}

    assert not authors & {designer(facts["author"]) for facts in FAMILIES["pretraining"].values()}


def test_what_a_designer_drew_for_a_class_is_in_one_split(splits: Splits) -> None:
    drawn = {split: {(one.classname, SETS[one.family]["author"]) for one in part} for split, part in splits.items()}

    assert not drawn["test"] & (drawn["train"] | drawn["val"]) and not drawn["train"] & drawn["val"]


def test_an_image_shows_the_class_that_its_icon_is_named_after(splits: Splits) -> None:
    concepts = concept_names()
    wrong = [
        one
        for part in splits.values()
        for one in part
        if concepts.get(normalise(one.family, one.icon)) != one.classname
    ]

    assert wrong == []


def test_a_drawing_is_in_one_split_only(splits: Splits) -> None:
    uses = Counter((one.family, one.icon) for part in splits.values() for one in part)

    assert [drawing for drawing, times in uses.items() if times > 1] == []


def test_the_datasets_share_out_the_classes_and_halve_their_own() -> None:
    datasets = [load_dataset(settings) for settings in SUITE.values()]

    assert sorted(SUITE) == sorted(CONCEPTS["datasets"])
    assert sorted(name for one in datasets for name in one.classnames) == sorted(CONCEPTS["classes"])
    assert all(abs(len(one.novel) - len(one.base)) <= 1 for one in datasets)


def test_every_class_can_be_learned_and_tested(splits: Splits) -> None:
    per_class = {split: Counter(one.classname for one in part) for split, part in splits.items()}

    assert all(len(counts) == 88 for counts in per_class.values())
    assert min(per_class["test"].values()) >= 5
    assert per_class["test"].total() >= 1500
