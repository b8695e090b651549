"""Which of several strategies an image uses: a pure function of its number that keeps to the weights all the way."""

from __future__ import annotations

from functools import lru_cache
from math import gcd


def turn_of(weights: tuple[int, ...], image: int) -> tuple[int, int]:
    """(strategy, turn) of image number `image`: how often the strategy was used before is its turn.

    Among the first n images each strategy is used n · weight / sum times, give or take less than one, whatever n is.

    Args:
        weights: at least 0, and one of them more.
        image: from 0.
    """
    if len(weights) == 1:
        return 0, image
    order, turns, uses = _period(weights)
    periods, place = divmod(image, len(order))
    return order[place], periods * uses[order[place]] + turns[place]


@lru_cache(maxsize=64)
def _period(weights: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """One period: the strategy and the turn of each place, and how often each strategy is used.

    Of the strategies whose use has begun to be due, the one that is late first is taken. Source: R. Tijdeman, The
    chairman assignment problem, Discrete Mathematics 32 (1980).
    """
    divisor = gcd(*weights)
    assert divisor > 0 and min(weights) >= 0
    weights = tuple(weight // divisor for weight in weights)
    length, slack = sum(weights), max(1, 2 * sum(weight > 0 for weight in weights) - 2)
    used = [0] * len(weights)
    order, turns = [], []
    for place in range(1, length + 1):
        due = [
            (-(-(slack * used[one] + slack - 1) * length // (slack * weight)), one)
            for one, weight in enumerate(weights)
            if slack * (weight * place - length * used[one]) >= length
        ]
        _, taken = min(due)
        order.append(taken)
        turns.append(used[taken])
        used[taken] += 1
    return tuple(order), tuple(turns), weights
