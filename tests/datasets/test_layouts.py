"""The literature's datasets, read from miniatures in the original file formats."""

from __future__ import annotations

import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from syncclip.datasets.catalog import DATASETS
from tests.datasets.conftest import load
from tests.worlds.dataset import paths_of
from tests.worlds.literature import ADVERSARIAL, RENDITION, WORDNET, Miniatures, miniature

ALL = sorted(DATASETS)


def test_the_catalogue_has_fifteen_datasets_and_matches_the_documentation() -> None:
    assert len(DATASETS) == 15
    assert sum(entry.train is not None for entry in DATASETS.values()) == 11
    assert all(entry.page and entry.cite and "{}" in entry.template for entry in DATASETS.values())
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (https://\S+) \| [^|]+ \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
    assert rows == [(entry.name, entry.page, entry.licence or "see its page") for entry in DATASETS.values()]


@pytest.mark.parametrize("name", ALL)
def test_classes_template_and_files_match_the_miniature(miniatures: Miniatures, name: str) -> None:
    dataset, expected = load(name, miniatures.root), miniatures.of[name]
    assert (dataset.name, dataset.classnames) == (name, expected.classnames)
    assert dataset.template == expected.template == DATASETS[name].template
    half = -(-len(expected.classnames) // 2)
    assert (dataset.base, dataset.novel) == ([*range(half)], [*range(half, len(expected.classnames))])
    assert dataset.candidates == expected.candidates
    assert set(dataset.splits) == set(expected.items)
    for split, items in expected.items.items():
        images = dataset.split(split)  # type: ignore[arg-type]
        paths = [path.relative_to(miniatures.root).as_posix() for path in paths_of(images)]
        assert list(zip(paths, images.labels.tolist(), strict=True)) == items


def test_classes_with_equal_names_stay_separate(miniatures: Miniatures) -> None:
    dataset = load("imagenet", miniatures.root)
    assert dataset.classnames[2] == dataset.classnames[3] == "crane"
    assert len(dataset.split("train").rows_of(2)) == len(dataset.split("train").rows_of(3)) == 6


def folder_labels(root: Path, name: str) -> dict[str, int]:
    """Class folder -> label of the images of the test split."""
    test = load(name, root).split("test")
    return {Path(test.name(row)).parent.name: int(label) for row, label in enumerate(test.labels)}


def test_numbered_folders_are_ordered_by_number(miniatures: Miniatures) -> None:
    labels = folder_labels(miniatures.root, "imagenet_v2")
    assert labels == {str(number): number for number in range(12)} and sorted(labels) != list(map(str, range(12)))


@pytest.mark.parametrize("name", ["imagenet_sketch", "imagenet_a", "imagenet_r"])
def test_variants_have_the_ids_of_imagenet(miniatures: Miniatures, name: str) -> None:
    assert folder_labels(miniatures.root, name).items() <= dict(zip(WORDNET, range(12), strict=True)).items()


def test_candidates_of_imagenet_a_and_r_are_classes_with_images(miniatures: Miniatures) -> None:
    assert load("imagenet_a", miniatures.root).candidates == ADVERSARIAL
    assert load("imagenet_r", miniatures.root).candidates == RENDITION
    assert load("imagenet_v2", miniatures.root).candidates == list(range(12))


@pytest.mark.parametrize("name", ["imagenet", "imagenet_a"])
def test_ids_are_independent_of_the_order_of_class_names(tmp_path: Path, name: str) -> None:
    expected = miniature(tmp_path, name)
    file = tmp_path / DATASETS[name].folder / "classnames.txt"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    dataset = load(name, tmp_path)
    assert (dataset.classnames, dataset.candidates) == (expected.classnames, expected.candidates)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class MakeFolder:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    miniature(tmp_path, "dtd")
    file = tmp_path / "dtd" / "split_fewshot" / "shot_16-seed_1.pkl"
    file.parent.mkdir()
    file.write_bytes(pickle.dumps(MakeFolder()))
    load("dtd", tmp_path).few_shot(16, seed=1)
    assert not (tmp_path / "executed").exists()


def published_sample(items: list[tuple[str, int]], shots: int) -> list[tuple[str, int]]:
    """CoOp's few-shot sample with the global generator, for items in the order of their split."""
    sample = []
    for label in dict.fromkeys(label for _, label in items):
        of_label = [item for item in items if item[1] == label]
        sample += random.sample(of_label, shots) if len(of_label) >= shots else of_label
    return sample


@pytest.mark.nightly
@pytest.mark.parametrize("name", [name for name in ALL if DATASETS[name].train])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_few_shot_samples_equal_those_of_published_runs(miniatures: Miniatures, name: str, seed: int) -> None:
    dataset, items = load(name, miniatures.root), miniatures.of[name].items["train"]
    for shots in (1, 2, 4, 8, 16):
        random.seed(seed)
        sample = published_sample(items, shots)
        base = [item for item in sample if item[1] in dataset.base]
        for classes, expected in (("all", sample), ("base", base)):
            rows = dataset.few_shot(shots, seed, classes)  # type: ignore[arg-type]
            assert [items[row] for row in rows] == expected
