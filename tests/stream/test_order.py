"""Order of training, with several datasets; test_mixed.py tests whole batches of single ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncclip.core.settings import UserError
from syncclip.stream import order, random_numbers
from syncclip.stream.order import MovingWindow, RealEpochs, SyntheticSampler
from syncclip.stream.sources import MixedSource
from tests.stream.test_mixed import stored

SEEDS = st.integers(-(2**70), 2**70)

FIRST, SECOND = 30, 10
"""Numbers of images of the two synthetic datasets."""


def sampler(
    weight: float = 1.0, width: int | None = None, seed: int = 1, **without: tuple[int, ...]
) -> SyntheticSampler:
    """A sampler of two datasets, of which the second has `weight`."""
    sources = [MixedSource(stored(5, 6, 2)), MixedSource(stored(5, 2, 1, **without), weight)]
    return SyntheticSampler(sources, seed=seed, width=width, sampled=8)


def sample(source: SyntheticSampler, labels: list[int], step: int) -> list[int]:
    return source.sample(np.array(labels), random_numbers.SEEN, 0, step, step).tolist()


@pytest.mark.parametrize(("weight", "probability"), [(1.0, 1 / 2), (3.0, 3 / 4), (0.25, 1 / 5)])
def test_datasets_are_sampled_by_weight(weight: float, probability: float) -> None:
    source = sampler(weight)
    rows = [row for step in range(300) for row in sample(source, [0, 1, 2, 3, 4, 0, 1, 2], step)]
    second = [row for row in rows if row >= FIRST]
    assert abs(len(second) / len(rows) - probability) < 3 * np.sqrt(probability * (1 - probability) / len(rows))
    assert len(set(second)) == SECOND


@settings(max_examples=40)
@given(seed=st.integers(0, 2**40), step=st.integers(0, 500), width=st.sampled_from([None, 1, 2]))
def test_sampled_images_have_the_given_labels_and_are_in_the_windows(seed: int, step: int, width: int | None) -> None:
    source, labels = sampler(2.0, width, seed), [4, 0, 0, 2, 3, 1, 4, 2]
    rows = sample(source, labels, step)
    assert [row % 5 for row in rows] == labels  # both datasets are index-major
    assert rows == sample(sampler(2.0, width, seed), labels, step)
    for window, images, start in zip(source.windows, (stored(5, 6, 2), stored(5, 2, 1)), (0, FIRST), strict=True):
        own_rows = [row - start for row in rows if start <= row < start + len(images)]
        assert set(images.samples.shard[own_rows].tolist()) <= set(window.shards(step))


def test_without_a_window_the_rows_of_a_class_are_a_view() -> None:
    images = stored(5, 6, 2)
    window = MovingWindow(images, width=None, seed=1, sampled=8)
    for rows in window.choices(np.array([0, 4, 4]), 3):
        assert np.shares_memory(rows, images.samples.by_label)


def test_a_dataset_without_images_of_a_class_is_not_sampled_for_it() -> None:
    source = sampler(1000.0, without=(3, 8))
    assert all(row < FIRST for step in range(50) for row in sample(source, [3] * 8, step))
    assert all(row >= FIRST for step in range(20) for row in sample(source, [1] * 4, step))


def test_the_windows_of_two_datasets_are_independent() -> None:
    sources = [MixedSource(stored(5, 6, 1)), MixedSource(stored(5, 6, 1))]
    first, second = SyntheticSampler(sources, seed=1, width=1, sampled=2).windows
    assert any(first.shards(step) != second.shards(step) for step in range(20))


@given(weight=st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.0]), seed=st.integers(0, 2**40), first=st.integers(0, 20))
def test_a_real_image_occurs_as_often_as_its_weight(weight: float, seed: int, first: int) -> None:
    epochs = RealEpochs([MixedSource(stored(3, 4, 4), rows=[0, 5]), MixedSource(stored(5, 2, 1), weight)], seed)
    assert epochs.rows.tolist() == [0, 5, *range(12, 22)]
    rows_of_epochs = [epochs.rows_of_epoch(epoch) for epoch in range(first, first + 4)]
    assert {len(rows) for rows in rows_of_epochs} == {len(epochs)} == {2 + round(10 * weight)}
    counts = Counter(np.concatenate(rows_of_epochs).tolist())
    assert counts[0] == counts[5] == 4
    weighted = [counts[row] for row in range(12, 22)]
    assert sum(weighted) == 4 * round(10 * weight)
    assert max(weighted) - min(weighted) <= (0 if weight == 1 else 2)  # passes may begin and end within these epochs


def test_a_dataset_without_real_images_is_reported_by_its_number() -> None:
    with pytest.raises(UserError, match="there are no real training images in dataset 2 of 2"):
        RealEpochs([MixedSource(stored(3, 4, 4)), MixedSource(stored(3, 4, 4), rows=[])], seed=1)


@given(n=st.integers(1, 50), batch=st.integers(1, 20), seed=SEEDS, epoch=st.integers(0, 100))
def test_an_epoch_contains_each_item_and_wraps_around(n: int, batch: int, seed: int, epoch: int) -> None:
    steps = order.steps(n, batch)
    drawn = [row for step in range(steps) for row in order.batch_of(n, batch, seed, epoch, step).tolist()]
    assert len(drawn) == steps * batch
    assert sorted(drawn[:n]) == list(range(n))
    assert drawn[n:] == (drawn * (1 + batch // n))[: len(drawn) - n]
    assert steps * batch - n < batch


@given(shards=st.integers(1, 12), width=st.integers(1, 12), seed=SEEDS, position=st.integers(0, 1000))
def test_a_window_contains_distinct_shards_up_to_its_width(shards: int, width: int, seed: int, position: int) -> None:
    window = order.window(shards, width, seed, position)
    assert list(window) == sorted(set(window))
    assert set(window) <= set(range(shards))
    assert len(window) <= width
    if shards <= width:
        assert len(window) == shards
    elif position % shards <= shards - width:  # within one sweep
        assert len(window) == width


@given(shards=st.integers(2, 12), width=st.integers(1, 11), seed=SEEDS, position=st.integers(0, 1000))
def test_a_window_changes_by_at_most_one_shard_per_position(shards: int, width: int, seed: int, position: int) -> None:
    now, then = (set(order.window(shards, width, seed, s)) for s in (position, position + 1))
    assert len(then - now) <= 1
    assert len(now - then) <= 1


@given(shards=st.integers(2, 12), width=st.integers(1, 11), seed=SEEDS)
def test_a_sweep_visits_every_shard(shards: int, width: int, seed: int) -> None:
    seen = {shard for position in range(shards) for shard in order.window(shards, width, seed, position)}
    assert seen == set(range(shards))


def test_orders_differ_between_sweeps() -> None:
    sweeps = {tuple(order.window(9, 1, 0, 9 * sweep + position) for position in range(9)) for sweep in range(20)}
    assert len(sweeps) == 20


@pytest.mark.parametrize(
    ("images", "shards", "drawn", "steps"), [(1000, 10, 20, 5), (1000, 10, 30, 4), (10, 10, 64, 1), (90, 1, 0, 90)]
)
def test_a_window_moves_after_drawing_one_shards_images(images: int, shards: int, drawn: int, steps: int) -> None:
    assert order.steps_per_window(images, shards, drawn) == steps


@given(n=st.integers(1, 20), count=st.integers(1, 50), seed=SEEDS, epochs=st.integers(1, 12))
def test_over_epochs_all_items_appear_equally_often(n: int, count: int, seed: int, epochs: int) -> None:
    shown = [order.shown_items(n, count, seed, epoch) for epoch in range(epochs)]
    assert all(len(items) == count for items in shown)
    counts = np.bincount(np.concatenate(shown), minlength=n)
    assert counts.sum() == count * epochs
    assert counts.max() - counts.min() <= 1
