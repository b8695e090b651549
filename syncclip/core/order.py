"""The order of samples: pure functions of integers.

Randomness is a hash of (seed, what for, epoch, step, position), computed with 64-bit arithmetic only, so that an order
depends neither on a generator's state nor on numpy's version. The hash is splitmix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

# The purposes of random numbers: distinct first words of a key.
PERMUTATION, WINDOW, SEEN, NOVEL_LABEL, NOVEL, BASE_LABEL, AUGMENT, SOURCE = range(1, 9)


def key(*words: int) -> int:
    """A 64-bit hash of a sequence of integers, of each the lower 128 bits."""
    return _absorb(len(words), words)


def keys(*words: int, last: npt.NDArray[np.int64]) -> list[int]:
    """`key(*words, one)` for each of the numbers `last`, which are not negative."""
    state = np.uint64(_absorb(len(words) + 1, words)) ^ last.astype(np.uint64)
    mixed = _mixed(_mixed(state + np.uint64(_GOLDEN)) + np.uint64(_GOLDEN))  # its lower half, and its upper one of 0
    found: list[int] = mixed.tolist()
    return found


def bits(key: int, n: int) -> npt.NDArray[np.uint64]:
    """(n,) uniform 64-bit numbers; number i depends on (key, i) alone."""
    return _mixed(np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key))


def below(bounds: npt.NDArray[np.int64], key: int) -> npt.NDArray[np.int64]:
    """(n,) uniform integers, number i in [0, bounds[i]); bounds up to 2^31 (the bias is below bound / 2^32)."""
    assert bool(np.all(bounds > 0))
    upper = bits(key, len(bounds)) >> np.uint64(32)
    drawn: npt.NDArray[np.int64] = (upper * bounds.astype(np.uint64) >> np.uint64(32)).astype(np.int64)
    return drawn


@lru_cache(maxsize=8)
def permutation(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of n items in an epoch; read-only, since it is shared."""
    order = np.argsort(bits(key(PERMUTATION, seed, epoch), n), kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


def steps(n: int, batch: int) -> int:
    """Batches in an epoch of n items, the last one filled up."""
    return -(-n // batch)


def batch_of(n: int, batch: int, seed: int, epoch: int, step: int) -> npt.NDArray[np.int64]:
    """(batch,) which of n items make batch `step`: the next ones of the epoch's permutation, which starts again at its
    end, so that every batch is full and every item appears at least once an epoch."""
    return permutation(n, seed, epoch)[(step * batch + np.arange(batch)) % n]


def shown(n: int, count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """(count,) which of n items appear in an epoch that shows `count` of them: the next ones of an endless sequence of
    permutations, so that over the epochs each appears equally often."""
    places = epoch * count + np.arange(count)
    sweeps = [
        permutation(n, key(SOURCE, seed), sweep) for sweep in range(int(places[0]) // n, int(places[-1]) // n + 1)
    ]
    found: npt.NDArray[np.int64] = np.concatenate(sweeps)[places - places[0] // n * n]
    return found


def choose(weights: npt.NDArray[np.float64], key: int) -> npt.NDArray[np.int64]:
    """(n,) a column for each row of (n, m) weights, with probability proportional to its weight."""
    bounds = np.cumsum(weights, axis=1)
    assert bool(np.all(bounds[:, -1] > 0))
    share = (bits(key, len(weights)) >> np.uint64(11)).astype(np.float64) / float(1 << 53)  # in [0, 1)
    chosen: npt.NDArray[np.int64] = (bounds <= (share * bounds[:, -1])[:, None]).sum(1).astype(np.int64)
    return chosen


def window(shards: int, width: int, seed: int, position: int) -> tuple[int, ...]:
    """The `width` of `shards` that are in use at a position, ascending; all of them where there are no more.

    Sweep after sweep, each in an order of its own, the shards pass by in one endless row, over which the window moves
    on by one shard at each position. (Where two sweeps meet, a shard can be in it twice; the window is then that much
    smaller.)
    """
    if shards <= width:
        return tuple(range(shards))
    chosen = set()
    for place in range(position, position + width):
        sweep, within = divmod(place, shards)
        chosen.add(int(permutation(shards, key(WINDOW, seed), sweep)[within]))
    return tuple(sorted(chosen))


def steps_per_window(images: int, shards: int, drawn: int) -> int:
    """Steps for which the window stays in place: about one image is then drawn for every image that is fetched, no step
    waits for more than its share of reading, and a sweep shows a set about once.

    Args:
        images, shards: Of the set.
        drawn: Images of it in a batch.
    """
    return max(1, -(-images // (shards * max(1, drawn))))


def _absorb(state: int, words: Sequence[int]) -> int:
    for word in words:
        for half in (word & _MASK, (word >> 64) & _MASK):
            state = _mix(((state ^ half) + _GOLDEN) & _MASK)
    return state


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def _mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


def evenly(labels: npt.NDArray[np.int64], limit: int) -> npt.NDArray[np.int64]:
    """At most `limit` rows, the first of every class before the second of any: ascending."""
    rows: npt.NDArray[np.int64] = np.sort(np.lexsort((labels, ranks(labels)))[:limit]).astype(np.int64)
    return rows


def ranks(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(n,) how many earlier rows show the same class."""
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return rank
