from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from syncclip.synthesis.seeds import MAX_IMAGES, seed_of, seeds_of
from syncclip.synthesis.settings import MAX_ATTEMPTS


@given(
    st.integers(0, 1),  # few seeds, since the tables of each take a while
    st.sampled_from([0, 7, MAX_IMAGES - 20]),
    st.integers(0, 20),
    st.integers(0, MAX_ATTEMPTS - 1),
)
def test_seeds_of_many_samples_equal_those_of_each(seed: int, start: int, count: int, attempt: int) -> None:
    seeds = seeds_of(seed, range(start, start + count), attempt)
    assert seeds.dtype == np.uint32
    assert seeds.tolist() == [seed_of(seed, index, attempt) for index in range(start, start + count)]


@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(0, MAX_IMAGES - 1), st.integers(0, MAX_ATTEMPTS - 1)), unique=True),
)
def test_all_attempts_of_a_dataset_have_different_seeds(seed: int, attempts: list[tuple[int, int]]) -> None:
    seeds = {seed_of(seed, index, attempt) for index, attempt in attempts}
    assert len(seeds) == len(attempts) and all(0 <= value < 2**32 for value in seeds)


def test_seeds_are_stable() -> None:
    assert [seed_of(0, 0, 0), seed_of(0, 1, 0), seed_of(1, 0, 2)] == [1242806397, 2044520436, 251047857]
