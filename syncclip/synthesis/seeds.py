"""The seed of every attempt at every image of a set: one for each, no two alike."""

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
    """The 32-bit seed of an attempt: a keyed permutation of (attempt, index), so no two attempts of a set share one.

    torch's CPU generator looks at 32 bits of a seed only. Seeds that were merely hashed would collide there, and
    within a class a collision is the same image twice. Four Feistel rounds with SHA-256 mix and never collide.
    """
    assert 0 <= index < MAX_IMAGES and 0 <= attempt < MAX_ATTEMPTS
    left, right = divmod(attempt * MAX_IMAGES + index, 1 << 16)
    for turn in range(_ROUNDS):
        left, right = right, left ^ _round_key(seed, right, turn)
    return left << 16 | right


def seeds_of(seed: int, indices: range | Sequence[int], attempt: int) -> npt.NDArray[np.uint32]:
    """`seed_of` many samples at once, (n,); the first call for a set takes a moment longer."""
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
def _round_key(seed: int, half: int, turn: int) -> int:
    digest = hashlib.sha256(f"syncclip {seed} {turn} {half}".encode()).digest()
    return int.from_bytes(digest[:2], "big")


@lru_cache(maxsize=2)
def _round_keys(seed: int) -> npt.NDArray[np.uint32]:
    """(rounds, 65536) all keys, 1 MiB; the scalar's cache stays as it is."""
    key = _round_key.__wrapped__
    return np.array([[key(seed, half, turn) for half in range(1 << 16)] for turn in range(_ROUNDS)], np.uint32)
