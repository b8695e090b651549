"""Base and novel classes other than the first and the second half, and the choice of shots."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncclip.core.settings import UserError
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.datasets.dataset import choose_rows
from tests.worlds.dataset import CLASSES
from tests.worlds.tables import write_images, write_table


def load(place: Path, **settings: Any) -> Dataset:
    return load_dataset(DatasetSettings(name=str(place), **settings))


def test_given_halves_come_first_and_keep_their_images(tmp_path: Path) -> None:
    table = write_table(tmp_path / "mine.csv", write_images(tmp_path))
    dataset = load(table, base=["red square", "blue circle"])
    assert dataset.classnames[:2] == ["blue circle", "red square"] and sorted(dataset.classnames) == sorted(CLASSES)
    assert (dataset.base, len(dataset.novel)) == ([0, 1], 4)
    for split in ("train", "test"):
        images = dataset.split(split)  # type: ignore[arg-type]
        for row, label in enumerate(images.labels):
            shown = int(Path(images.name(row)).stem.partition("_")[0])  # type: ignore[attr-defined]
            assert dataset.classnames[label] == CLASSES[shown]
    assert sorted(dataset.split("train").labels[dataset.few_shot(3, 1)].tolist()) == [0, 0, 0, 1, 1, 1]


def test_other_halves_change_no_shot(tmp_path: Path) -> None:
    table = write_table(tmp_path / "mine.csv", write_images(tmp_path))
    rows = {base: load(table, base=base).few_shot(2, 1, "all").tolist() for base in ("first", "drawn", "all")}
    assert rows["first"] == rows["drawn"] == rows["all"]


def test_halves_are_drawn_by_their_seed(tmp_path: Path) -> None:
    table = write_table(tmp_path / "mine.csv", write_images(tmp_path))
    drawn = [frozenset(load(table, base="drawn", base_seed=seed).classnames[:3]) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


@pytest.mark.parametrize(
    ("base", "part"), [(["puce circle"], "'mine' has no class named 'puce circle'"), ([6], "6 is not a class id")]
)
def test_a_half_of_unknown_classes_is_refused(tmp_path: Path, base: list[str | int], part: str) -> None:
    table = write_table(tmp_path / "mine.csv", write_images(tmp_path))
    with pytest.raises(UserError, match=part):
        load(table, base=base)


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60)


def published_choice(labels: list[int], shots: int, seed: int) -> dict[int, list[int]]:
    """The documented procedure, step by step, with the module's global generator as published code uses it."""
    random.seed(seed)
    chosen = {}
    for label in dict.fromkeys(labels):  # order of first appearance
        items = [row for row, other in enumerate(labels) if other == label]
        chosen[label] = random.sample(items, shots) if len(items) >= shots else items
    return chosen


@given(LABELS, st.integers(1, 17), st.integers(0, 5), st.sets(st.integers(0, 5)))
def test_the_choice_is_that_of_the_literature(labels: list[int], shots: int, seed: int, wanted: set[int]) -> None:
    rows = choose_rows(labels, shots, seed, wanted)
    expected = [row for label, rows in published_choice(labels, shots, seed).items() if label in wanted for row in rows]
    assert rows.tolist() == expected


@given(LABELS, st.integers(1, 9), st.integers(0, 5))
def test_the_rows_of_a_class_do_not_depend_on_which_classes_are_wanted(labels: list[int], k: int, seed: int) -> None:
    everything = choose_rows(labels, k, seed, range(6))
    some = choose_rows(labels, k, seed, [1, 3])
    assert some.tolist() == [row for row in everything if labels[row] in (1, 3)]


@given(LABELS, st.integers(1, 9), st.integers(0, 5))
def test_each_class_gives_as_many_rows_as_asked_or_all_it_has(labels: list[int], shots: int, seed: int) -> None:
    rows = choose_rows(labels, shots, seed, range(6))
    assert len(set(rows.tolist())) == len(rows)
    counts = np.bincount(np.array(labels)[rows], minlength=6)
    assert counts.tolist() == [min(shots, labels.count(label)) for label in range(6)]
