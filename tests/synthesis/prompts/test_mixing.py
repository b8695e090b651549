from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from syncclip.synthesis.prompts.settings import turn_of

weights = st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any).map(tuple)


@given(weights, st.integers(1, 80))
def test_every_prefix_keeps_to_the_weights(weights: tuple[int, ...], length: int) -> None:
    counts = Counter(turn_of(weights, image)[0] for image in range(length))
    for strategy, weight in enumerate(weights):
        assert abs(counts[strategy] - length * weight / sum(weights)) < 1


@given(weights, st.integers(0, 80))
def test_the_turn_of_an_image_is_how_often_its_strategy_was_used_before(weights: tuple[int, ...], image: int) -> None:
    strategy, turn = turn_of(weights, image)
    assert turn == sum(turn_of(weights, before)[0] == strategy for before in range(image))


@given(weights, st.integers(2, 5), st.integers(0, 80))
def test_only_the_ratio_of_weights_matters(weights: tuple[int, ...], factor: int, image: int) -> None:
    assert turn_of(weights, image) == turn_of(tuple(factor * weight for weight in weights), image)


def test_a_strategy_without_weight_is_never_used() -> None:
    assert [turn_of((0, 3), image) for image in range(4)] == [(1, 0), (1, 1), (1, 2), (1, 3)]


def test_far_images_cost_no_more_than_near_ones() -> None:
    strategy, turn = turn_of((3, 1), 4 * 10**9)
    assert (strategy, turn) == (turn_of((3, 1), 0)[0], 3 * 10**9)
