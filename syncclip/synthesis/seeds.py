"""Unique seeds for all generation attempts in a synthetic dataset."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from syncclip.synthesis.settings import MAX_ATTEMPTS

MAX_IMAGES = 2**32 // MAX_ATTEMPTS
"""Maximum number of images in a dataset; attempt and index share the 32 bits of a seed."""

_ROUNDS = 4


def seed_of(seed: int, index: int, attempt: int) -> int:
    """Return the seed of an attempt: the 32-bit number (attempt, index), mapped by a permutation keyed by `seed`.

    torch's CPU generator uses only 32 bits of a seed. With 32-bit hashes, seeds could collide, and a collision
    within a class would repeat an image. A Feistel network with four SHA-256 rounds has no collisions.
    """
    assert 0 <= index < MAX_IMAGES and 0 <= attempt < MAX_ATTEMPTS
    left, right = divmod(attempt * MAX_IMAGES + index, 1 << 16)
    for number in range(_ROUNDS):
        left, right = right, left ^ _round_key(seed, right, number)
    return left << 16 | right


def seeds_of(seed: int, indices: range, attempt: int) -> npt.NDArray[np.uint32]:
    """Return the seeds of many samples, with shape (n,); the first call for a dataset computes lookup tables."""
    assert 0 <= attempt < MAX_ATTEMPTS and indices.stop <= MAX_IMAGES
    index = np.arange(indices.start, indices.stop, indices.step, dtype=np.uint32) + np.uint32(attempt * MAX_IMAGES)
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
    """Return the keys of all rounds, with shape (rounds, 65536), without filling the cache of `_round_key`."""
    key = _round_key.__wrapped__
    return np.array([[key(seed, half, number) for half in range(1 << 16)] for number in range(_ROUNDS)], np.uint32)
