"""Unique seeds for all generation attempts in a synthetic dataset."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from syncclip.synthesis.settings import MAX_ATTEMPTS

MAX_IMAGES = 2**32
"""Maximum number of images in a dataset."""
BLOCK = 2**32 // MAX_ATTEMPTS
"""Number of images whose attempts have different seeds modulo 2**32."""

_ROUNDS = 4


def seed_of(seed: int, index: int, attempt: int) -> int:
    """Return the seed of an attempt, a number below 2**36 that no other attempt of the dataset has.

    The low 32 bits are (attempt, index mod `BLOCK`), mapped by a permutation keyed by `seed`; the high bits are
    index // `BLOCK`; see `generators.pipeline.random_generator`. With 32-bit hashes, seeds could collide, and a
    collision within a class would repeat an image. A Feistel network with four SHA-256 rounds has no collisions.
    """
    assert 0 <= index < MAX_IMAGES and 0 <= attempt < MAX_ATTEMPTS
    block, position = divmod(index, BLOCK)
    left, right = divmod(attempt * BLOCK + position, 1 << 16)
    for number in range(_ROUNDS):
        left, right = right, left ^ _round_key(seed, right, number)
    return block << 32 | left << 16 | right


@lru_cache(maxsize=65536)
def _round_key(seed: int, half: int, number: int) -> int:
    digest = hashlib.sha256(f"syncclip {seed} {number} {half}".encode()).digest()
    return int.from_bytes(digest[:2], "big")
