"""What a filter needs beside its settings: tensors that lie in the set's folder under the digest of their bytes.

The digest is part of the plan. So a machine that has none of the user's files can extend a set, and every image is
scored by the same weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from syncclip import storage
from syncclip.core.settings import UserError

if TYPE_CHECKING:
    import torch


FOLDER = "filters"


def place_of(url: str, digest: str) -> str:
    """Where the material of this digest lies in the set at `url`."""
    return storage.join(url, FOLDER, f"{digest}.safetensors")


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex digest (16 digits) of the bytes that `lay` would write."""
    return _digest(_bytes(tensors))


def lay(url: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write tensors beside the set and return their digest. After a crash they are there whole or not at all."""
    data = _bytes(tensors)
    digest = _digest(data)
    if not storage.exists(place_of(url, digest)):
        storage.write_bytes(place_of(url, digest), data)
    return digest


def fetch(url: str, digest: str, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a digest.

    Raises:
        UserError: they are missing or damaged; `name` is the filter that asks.
    """
    import safetensors.torch

    place = place_of(url, digest)
    if not digest or not storage.exists(place):
        raise UserError(
            f"filter {name!r}: {place} is not there; generate this set with `syncclip synth`, which lays it"
        )
    data = storage.read_bytes(place)
    if _digest(data) != digest:
        raise UserError(f"filter {name!r}: {place} was damaged; remove it and run the same `syncclip synth` again")
    tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
    return tensors


def _bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    import safetensors.torch

    data: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
