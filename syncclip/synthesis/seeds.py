"""The unique seed of every attempt at every image of a synthetic dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from syncclip.synthesis.settings import MAX_ATTEMPTS

MAX_IMAGES = 2**32 // MAX_ATTEMPTS
"""Attempts and index share the 32 bits of a seed."""

_ROUNDS = 4


def seed_of(seed: int, index: int, attempt: int) -> int:
    """The 32-bit seed of an attempt: a keyed permutation of (attempt, index), unique within a dataset.

    torch's CPU generator uses only 32 bits of a seed. Hashed seeds would collide there, and within a class a collision
    is the same image twice. Four Feistel rounds with SHA-256 mix without collisions.
    """
    assert 0 <= index < MAX_IMAGES and 0 <= attempt < MAX_ATTEMPTS
    left, right = divmod(attempt * MAX_IMAGES + index, 1 << 16)
    for number in range(_ROUNDS):
        left, right = right, left ^ _round_key(seed, right, number)
    return left << 16 | right


def seeds_of(seed: int, indices: range | Sequence[int], attempt: int) -> npt.NDArray[np.uint32]:
    """`seed_of` for many samples, (n,); the first call for a dataset is slower."""
    if isinstance(indices, range):
        index = np.arange(indices.start, indices.stop, indices.step, dtype=np.uint32)
    else:
        index = np.asarray(indices, np.uint32)
    assert 0 <= attempt < MAX_ATTEMPTS and (not index.size or index.max() < MAX_IMAGES)
    index = index + np.uint32(attempt * MAX_IMAGES)
    left, right = index >> np.uint32(16), index & np.uint32(0xFFFF)
    for keys in _round_keys(seed):
        left, right = right, left ^ keys[right]
    return left << np.uint32(16) | right


@lru_cache(maxsize=65536)
def _round_key(seed: int, half: int, number: int) -> int:
    digest = hashlib.sha256(f"syncclip {seed} {number} {half}".encode()).digest()
    return int.from_bytes(digest[:2], "big")


@lru_cache(maxsize=2)
def _round_keys(seed: int) -> npt.NDArray[np.uint32]:
    """All keys, (rounds, 65536), 1 MiB, without filling the cache of `_round_key`."""
    key = _round_key.__wrapped__
    return np.array([[key(seed, half, number) for half in range(1 << 16)] for number in range(_ROUNDS)], np.uint32)
