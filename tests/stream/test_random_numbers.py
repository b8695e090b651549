"""Counter-based random numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncclip.stream import random_numbers

SEEDS = st.integers(-(2**70), 2**70)


def test_bits_match_published_values_of_splitmix64() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert random_numbers.bits(0, 4).tolist() == published


@given(key=st.integers(0, 2**64 - 1), n=st.integers(0, 40), more=st.integers(0, 40))
def test_a_number_does_not_depend_on_the_number_of_draws(key: int, n: int, more: int) -> None:
    assert random_numbers.bits(key, n).tolist() == random_numbers.bits(key, n + more)[:n].tolist()


def test_keys_of_different_words_differ() -> None:
    words = [(), (0,), (0, 0), (1,), (-1,), (0, 1), (1, 0), (2**64,), (2**64 - 1,), (-(2**64),), (2**65,), (1, 2, 3)]
    assert len({random_numbers.key(*word) for word in words}) == len(words)
    assert (
        len({random_numbers.key(random_numbers.SEEN, 1, epoch, step) for epoch in range(100) for step in range(100)})
        == 10_000
    )


@given(bounds=st.lists(st.integers(1, 2**31), max_size=50), key=st.integers(0, 2**64 - 1))
def test_draws_stay_below_their_bounds(bounds: list[int], key: int) -> None:
    drawn = random_numbers.below(np.array(bounds, np.int64), key)
    assert all(0 <= number < bound for number, bound in zip(drawn.tolist(), bounds, strict=True))


def test_draws_are_uniform() -> None:
    counts = Counter(random_numbers.below(np.full(7000, 7), random_numbers.key(1)).tolist())
    # 3 standard deviations of a binomial with n = 7000, p = 1/7: 3 * sqrt(7000 * 6) / 7 = 88
    assert all(abs(counts[number] - 1000) < 88 for number in range(7))


@given(n=st.integers(0, 60), seed=SEEDS, epoch=st.integers(0, 10**6))
def test_a_permutation_contains_each_number_once(n: int, seed: int, epoch: int) -> None:
    assert sorted(random_numbers.permutation(n, seed, epoch).tolist()) == list(range(n))


def test_orders_differ_between_epochs_and_seeds() -> None:
    assert len({tuple(random_numbers.permutation(20, seed, epoch)) for seed in range(10) for epoch in range(10)}) == 100


def test_a_cached_permutation_is_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        random_numbers.permutation(3, 0, 0)[0] = 1


def test_columns_are_drawn_in_proportion_to_their_weights() -> None:
    weights = np.tile([0.0, 1.0, 3.0, 0.0], (20000, 1))
    counts = np.bincount(random_numbers.choose(weights, key=7), minlength=4)
    assert counts[0] == counts[3] == 0
    assert abs(counts[2] - 15000) < 3 * np.sqrt(20000 * 3 / 16)


@given(
    words=st.lists(st.integers(0, 2**70), max_size=4), last=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5)
)
def test_vectorised_keys_equal_single_keys(words: list[int], last: list[int]) -> None:
    assert random_numbers.keys(*words, last=np.array(last)) == [random_numbers.key(*words, number) for number in last]
