"""Sample orders."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncclip.stream import order

SEEDS = st.integers(-(2**70), 2**70)


def test_bits_match_published_values_of_splitmix64() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert order.bits(0, 4).tolist() == published


@given(key=st.integers(0, 2**64 - 1), n=st.integers(0, 40), more=st.integers(0, 40))
def test_a_number_does_not_depend_on_the_number_of_draws(key: int, n: int, more: int) -> None:
    assert order.bits(key, n).tolist() == order.bits(key, n + more)[:n].tolist()


def test_keys_of_different_words_differ() -> None:
    words = [(), (0,), (0, 0), (1,), (-1,), (0, 1), (1, 0), (2**64,), (2**64 - 1,), (-(2**64),), (2**65,), (1, 2, 3)]
    assert len({order.key(*word) for word in words}) == len(words)
    assert len({order.key(order.SEEN, 1, epoch, step) for epoch in range(100) for step in range(100)}) == 10_000


@given(bounds=st.lists(st.integers(1, 2**31), max_size=50), key=st.integers(0, 2**64 - 1))
def test_draws_stay_below_their_bounds(bounds: list[int], key: int) -> None:
    drawn = order.below(np.array(bounds, np.int64), key)
    assert all(0 <= number < bound for number, bound in zip(drawn.tolist(), bounds, strict=True))


def test_draws_are_uniform() -> None:
    counts = Counter(order.below(np.full(7000, 7), order.key(1)).tolist())
    # 3 standard deviations of a binomial with n = 7000, p = 1/7: 3 * sqrt(7000 * 6) / 7 = 88
    assert all(abs(counts[number] - 1000) < 88 for number in range(7))


@given(n=st.integers(0, 60), seed=SEEDS, epoch=st.integers(0, 10**6))
def test_a_permutation_contains_each_number_once(n: int, seed: int, epoch: int) -> None:
    assert sorted(order.permutation(n, seed, epoch).tolist()) == list(range(n))


def test_orders_differ_between_epochs_and_seeds() -> None:
    assert len({tuple(order.permutation(20, seed, epoch)) for seed in range(10) for epoch in range(10)}) == 100


def test_a_cached_permutation_is_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        order.permutation(3, 0, 0)[0] = 1


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


def test_columns_are_drawn_in_proportion_to_their_weights() -> None:
    weights = np.tile([0.0, 1.0, 3.0, 0.0], (20000, 1))
    counts = np.bincount(order.choose(weights, key=7), minlength=4)
    assert counts[0] == counts[3] == 0
    assert abs(counts[2] - 15000) < 3 * np.sqrt(20000 * 3 / 16)


@given(
    words=st.lists(st.integers(0, 2**70), max_size=4), last=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5)
)
def test_vectorised_keys_equal_single_keys(words: list[int], last: list[int]) -> None:
    assert order.keys(*words, last=np.array(last)) == [order.key(*words, number) for number in last]
