"""Base and novel classes, and few-shot sampling."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncclip.core.settings import UserError
from syncclip.datasets.dataset import choose_rows
from tests.datasets.conftest import load
from tests.worlds.dataset import CLASSES
from tests.worlds.tables import write_images, write_table

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    return write_table(folder / "mine.csv", write_images(folder))


def test_given_base_classes_come_first_and_keep_their_images(table: Path) -> None:
    dataset = load(table, base=["red square", "blue circle"])
    assert dataset.classnames[:2] == ["blue circle", "red square"] and sorted(dataset.classnames) == sorted(CLASSES)
    assert (dataset.base, len(dataset.novel)) == ([0, 1], 4)
    for split in ("train", "test"):
        images = dataset.split(split)  # type: ignore[arg-type]
        for row, label in enumerate(images.labels):
            drawn = int(Path(images.name(row)).stem.partition("_")[0])
            assert dataset.classnames[label] == CLASSES[drawn]
    assert sorted(dataset.split("train").labels[dataset.few_shot(3, 1)].tolist()) == [0, 0, 0, 1, 1, 1]


def test_few_shot_samples_are_independent_of_the_base_classes(table: Path) -> None:
    rows: list[Any] = [load(table, base=base).few_shot(2, 1, "all").tolist() for base in ("first", "random", "all")]
    assert rows[0] == rows[1] == rows[2]


def test_drawn_base_classes_depend_on_their_seed(table: Path) -> None:
    drawn = [frozenset(load(table, base="random", base_seed=seed).classnames[:3]) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


@pytest.mark.parametrize(
    ("base", "reason"), [(["puce circle"], "'mine' has no class named 'puce circle'"), ([6], "6 is not a class id")]
)
def test_unknown_base_classes_are_errors(table: Path, base: list[str | int], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load(table, base=base)


def published_sample(labels: list[int], shots: int, seed: int) -> dict[int, list[int]]:
    """CoOp's procedure with the global generator: class -> rows, classes in order of first appearance."""
    random.seed(seed)
    sample = {}
    for label in dict.fromkeys(labels):
        rows = [row for row, other in enumerate(labels) if other == label]
        sample[label] = random.sample(rows, shots) if len(rows) >= shots else rows
    return sample


@given(LABELS, st.integers(1, 17), st.integers(0, 5), st.sets(st.integers(0, 5)))
def test_rows_equal_those_of_published_code(labels: list[int], shots: int, seed: int, wanted: set[int]) -> None:
    sample = published_sample(labels, shots, seed)
    expected = [row for label, rows in sample.items() if label in wanted for row in rows]
    assert choose_rows(labels, shots, seed, wanted).tolist() == expected


@given(LABELS, st.integers(1, 9), st.integers(0, 5))
def test_rows_per_class_are_capped_and_independent_of_the_wanted_classes(
    labels: list[int], shots: int, seed: int
) -> None:
    rows = choose_rows(labels, shots, seed, range(6)).tolist()
    assert choose_rows(labels, shots, seed, [1, 3]).tolist() == [row for row in rows if labels[row] in (1, 3)]
    assert len(set(rows)) == len(rows)
    counts = np.bincount(np.array(labels)[rows], minlength=6)
    assert counts.tolist() == [min(shots, labels.count(label)) for label in range(6)]
