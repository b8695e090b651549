"""The choice of shots."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from syncclip.datasets.few_shot import choose_rows

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
