"""The shipped images: where each comes from, what the splits hold."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from scripts.embedded.drawings import CONCEPTS, FAMILIES, concept_names, normalise
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.embedded import FOLDER
from syncclip.shards.reader import ShardSet

NAMES = {
    family: facts["name"]
    for part in ("benchmark_colour", "benchmark_single_colour")
    for family, facts in FAMILIES[part].items()
}


def sources(split: str) -> list[tuple[str, str, str, int]]:
    """(name of the set, set, icon, label) of every image."""
    images = ShardSet(str(FOLDER / "icons/dataset" / split))
    found = []
    for row in range(len(images)):
        text = images.text(row)
        match = re.fullmatch(r"(.+) \(([a-z0-9-]+):([^:)]+)\)", text)
        assert match, f"{split} {row}: {text!r} does not name set and icon"
        found.append((*match.groups(), int(images.labels[row])))
    return found


@pytest.fixture(scope="module")
def splits() -> dict[str, list[tuple[str, str, str, int]]]:
    return {split: sources(split) for split in ("train", "val", "test")}


Splits = dict[str, list[tuple[str, str, str, int]]]


def test_every_image_names_a_set_of_the_dataset(splits: Splits) -> None:
    wrong = [(name, family) for part in splits.values() for name, family, _, _ in part if NAMES.get(family) != name]

    assert wrong == []


def test_no_image_comes_from_a_pretraining_set(splits: Splits) -> None:
    used = {family for part in splits.values() for _, family, _, _ in part}

    assert not used & set(FAMILIES["pretraining"])


def test_a_image_shows_the_class_that_its_icon_is_named_after(splits: Splits) -> None:
    classes, concepts = load_dataset(DatasetSettings()).classnames, concept_names()
    wrong = [
        (family, icon, classes[label])
        for part in splits.values()
        for _, family, icon, label in part
        if concepts.get(normalise(family, icon)) != classes[label]
    ]

    assert wrong == []


def test_a_drawing_is_in_one_split_only(splits: Splits) -> None:
    uses = Counter((family, icon) for part in splits.values() for _, family, icon, _ in part)

    assert [drawing for drawing, times in uses.items() if times > 1] == []


def test_the_classes_are_those_of_the_pretraining_vocabulary_in_order() -> None:
    dataset = load_dataset(DatasetSettings())

    assert dataset.classnames == sorted(CONCEPTS["classes"])
    assert len(dataset.base) == len(dataset.novel) == 44


def test_every_class_can_be_tested(splits: Splits) -> None:
    per_class = Counter(label for _, _, _, label in splits["test"])

    assert len(per_class) == 88
    assert min(per_class.values()) >= 7
