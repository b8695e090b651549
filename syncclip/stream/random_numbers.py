"""Counter-based random numbers for the order of training images.

Random numbers are hashes of (seed, purpose, epoch, step, position). The hash is splitmix64 (Steele, Lea, Flood 2014).
The hash uses only 64-bit arithmetic, so the order depends neither on generator state nor on the NumPy version.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

# Purposes of random numbers: the first integer of each key.
PERMUTATION, WINDOW, SEEN, NOVEL_LABEL, NOVEL, BASE_LABEL, AUGMENT, SOURCE = range(1, 9)


def key(*words: int) -> int:
    """Hash the lower 128 bits of each integer into a single 64-bit integer."""
    return _absorb(len(words), words)


def keys(*words: int, last: npt.NDArray[np.int64]) -> list[int]:
    """Return `key(*words, number)` for each of the nonnegative numbers in `last`."""
    state = np.uint64(_absorb(len(words) + 1, words)) ^ last.astype(np.uint64)
    mixed = _mix_array(_mix_array(state + np.uint64(_GOLDEN)) + np.uint64(_GOLDEN))  # lower half, then upper half: 0
    values: list[int] = mixed.tolist()
    return values


def bits(key: int, n: int) -> npt.NDArray[np.uint64]:
    """Return an (n,) array of uniformly distributed 64-bit integers; integer i depends only on (key, i)."""
    return _mix_array(np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key))


def below(bounds: npt.NDArray[np.int64], key: int) -> npt.NDArray[np.int64]:
    """Return a uniform integer in [0, bound) for each bound (at most 2^31), with a bias of less than bound / 2^32."""
    assert bool(np.all(bounds > 0))
    upper = bits(key, len(bounds)) >> np.uint64(32)
    drawn: npt.NDArray[np.int64] = (upper * bounds.astype(np.uint64) >> np.uint64(32)).astype(np.int64)
    return drawn


def choose(weights: npt.NDArray[np.float64], key: int) -> npt.NDArray[np.int64]:
    """Sample one column for each row of (n, m) weights, with probabilities proportional to the row's weights."""
    bounds = np.cumsum(weights, axis=1)
    assert bool(np.all(bounds[:, -1] > 0))
    uniform = (bits(key, len(weights)) >> np.uint64(11)).astype(np.float64) / float(1 << 53)  # in [0, 1)
    columns: npt.NDArray[np.int64] = (bounds <= (uniform * bounds[:, -1])[:, None]).sum(1).astype(np.int64)
    return columns


@lru_cache(maxsize=8)
def permutation(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return an epoch's permutation of n items; the array is cached and therefore read-only."""
    order = np.argsort(bits(key(PERMUTATION, seed, epoch), n), kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


def _absorb(state: int, words: Sequence[int]) -> int:
    for word in words:
        for half in (word & _MASK, (word >> 64) & _MASK):
            state = _mix(((state ^ half) + _GOLDEN) & _MASK)
    return state


def _mix_array(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def _mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)
