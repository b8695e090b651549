"""The shipped datasets: the source of each image and the content of the splits."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.embedded import dataset
from scripts.embedded.dataset import SETS, select_drawings
from scripts.embedded.drawings import (
    CONCEPTS,
    FAMILIES,
    ICONS,
    SYMBOLS,
    Suite,
    concept_names,
    normalise,
)
from scripts.embedded.masks import load_masks, make_masks
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.datasets.loading import SHIPPED, suite_of
from syncclip.embedded import FOLDER
from syncclip.shards.reader import ShardSet
from tests.embedded.test_families import designer


@dataclass(frozen=True)
class Source:
    """Source and label of an image."""

    name: str
    family: str
    icon: str
    classname: str


Splits = dict[str, list[Source]]


def datasets_of(suite: Suite) -> dict[str, DatasetSettings]:
    return suite_of(DatasetSettings(name=suite.name))


def sources(suite: Suite, split: str) -> list[Source]:
    """Sources of a split's images in all datasets of a suite."""
    result = []
    for name, settings in datasets_of(suite).items():
        images = ShardSet(str(FOLDER / SHIPPED[suite.name] / name / split))
        classnames = load_dataset(settings).classnames
        for row in range(len(images)):
            text = images.text(row)
            match = re.fullmatch(r"(.+) \(([a-z0-9-]+):([^:)]+)\)", text)
            assert match, f"{name}, {split} {row}: {text!r} names no icon set and icon"
            result.append(Source(*match.groups(), classnames[int(images.labels[row])]))
    return result


@pytest.fixture(scope="module", params=[ICONS, SYMBOLS], ids=lambda suite: suite.name)
def suite(request: pytest.FixtureRequest) -> Suite:
    suite: Suite = request.param
    return suite


@pytest.fixture(scope="module")
def splits(suite: Suite) -> Splits:
    return {split: sources(suite, split) for split in ("train", "val", "test")}


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


def test_the_datasets_partition_the_classes(suite: Suite, splits: Splits) -> None:
    settings = datasets_of(suite)
    datasets = [load_dataset(each) for each in settings.values()]
    assert sorted(settings) == sorted(suite.datasets)
    assert sorted(name for dataset in datasets for name in dataset.classnames) == suite.classes
    assert all(abs(len(dataset.novel) - len(dataset.base)) <= 1 for dataset in datasets)
    counts = {split: Counter(source.classname for source in images) for split, images in splits.items()}
    assert all(sorted(by_class) == suite.classes for by_class in counts.values())
    assert min(counts["test"].values()) >= 5 and counts["test"].total() >= 1200


def test_the_suites_share_no_class_and_no_drawing() -> None:
    drawings = [
        {(source.family, source.icon) for split in ("train", "val", "test") for source in sources(suite, split)}
        for suite in (ICONS, SYMBOLS)
    ]
    assert not drawings[0] & drawings[1]
    assert not set(ICONS.classes) & set(SYMBOLS.classes) and set(SYMBOLS.classes) <= set(CONCEPTS["other_concepts"])


def test_the_design_lists_the_counts_of_the_new_datasets() -> None:
    design = json.loads((FOLDER / SHIPPED["symbols"] / "design.json").read_text())
    assert {dataset: sorted(classes) for dataset, classes in design.items()} == SYMBOLS.datasets
    for split in ("train", "val", "test"):
        counts = Counter(source.classname for source in sources(SYMBOLS, split))
        assert counts == {name: each[split] for classes in design.values() for name, each in classes.items()}
    assert min(each["designers"] for classes in design.values() for each in classes.values()) >= 8


THIN = '<path fill="none" stroke="black" d="M2 3L14 3 8 13z"/>'


@pytest.mark.parametrize(
    ("body", "copies"),
    [
        ('<path fill="none" stroke="black" stroke-width="5" d="M 2,3 L14.02 3 8,13 Z"/>', 1),
        ('<path fill="none" stroke="black" d="M1 3L13 3 7 13z"/>', 1),  # the same shape elsewhere
        ('<path d="M8 1L15 15 1 15z"/>', 0),
    ],
    ids=["same path data, other stroke", "same pixels", "own"],
)
def test_copies_of_pretraining_drawings_are_excluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, copies: int
) -> None:
    (tmp_path / "json").mkdir()
    for family, path in (("theirs", THIN), ("mine", body)):
        (tmp_path / "json" / f"{family}.json").write_text(json.dumps({"icons": {"folder": {"body": path}}}))
    facts = {"licence": "MIT", "author": "Someone"}
    monkeypatch.setitem(FAMILIES, "pretraining", {"theirs": facts})
    monkeypatch.setattr(dataset, "SETS", {"mine": facts})
    make_masks(tmp_path, tmp_path / "masks.npz")
    suite = Suite("new", {"files": ["folder"]}, {"container": ["folder"]}, unseen=True)
    drawings, dropped = select_drawings(tmp_path, load_masks(tmp_path / "masks.npz"), suite)
    assert (len(drawings["folder"]), dropped["folder"]["dropped copies"]) == (1 - copies, copies)
