from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncclip.synthesis.seeds import BLOCK, MAX_IMAGES, seed_of
from syncclip.synthesis.settings import MAX_ATTEMPTS


@given(
    st.integers(0, 5),
    st.lists(st.tuples(st.integers(0, MAX_IMAGES - 1), st.integers(0, MAX_ATTEMPTS - 1)), unique=True),
)
def test_all_attempts_of_a_dataset_have_different_seeds(seed: int, attempts: list[tuple[int, int]]) -> None:
    seeds = {seed_of(seed, index, attempt) for index, attempt in attempts}
    assert len(seeds) == len(attempts) and all(0 <= value < 2**36 for value in seeds)


def test_seeds_are_stable() -> None:
    assert [seed_of(0, 0, 0), seed_of(0, 1, 0), seed_of(1, 0, 2)] == [1242806397, 2044520436, 251047857]
    assert seed_of(0, BLOCK - 1, 0) < 2**32
    assert seed_of(0, 3 * BLOCK + 1, 0) == 3 << 32 | seed_of(0, 1, 0)
