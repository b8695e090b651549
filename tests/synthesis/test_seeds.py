from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from syncclip.synthesis.seeds import MAX_IMAGES, seed_of, seeds_of
from syncclip.synthesis.settings import MAX_ATTEMPTS


@given(
    st.integers(0, 1),  # the tables of a set's seed take a moment
    st.lists(st.integers(0, MAX_IMAGES - 1), max_size=20),
    st.integers(0, MAX_ATTEMPTS - 1),
)
def test_many_seeds_at_once_are_those_of_each(seed: int, indices: list[int], attempt: int) -> None:
    many = seeds_of(seed, indices, attempt)
    assert many.dtype == np.uint32
    assert many.tolist() == [seed_of(seed, index, attempt) for index in indices]


def test_the_last_attempt_at_the_last_image_has_a_seed_too() -> None:
    last = range(MAX_IMAGES - 2, MAX_IMAGES)
    assert seeds_of(0, last, MAX_ATTEMPTS - 1).tolist() == [seed_of(0, index, MAX_ATTEMPTS - 1) for index in last]
