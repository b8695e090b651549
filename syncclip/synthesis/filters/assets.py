"""What a plan needs beside its settings is in the set's folder under the digest of its content, which the plan names.

So a machine that has none of the user's files can extend a set, and every image is scored by the same weights.
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


def digest_of(data: bytes) -> str:
    """Hex digest (16 digits) of some content."""
    return hashlib.sha256(data).hexdigest()[:16]


def asset_url(url: str, digest: str) -> str:
    """Where the tensors of this digest are in the set at `url`."""
    return storage.join(url, FOLDER, f"{digest}.safetensors")


def store(url: str, tensors: Mapping[str, torch.Tensor], planned: str, refusal: str) -> str:
    """Write tensors beside the set and return their digest. After a crash they are there whole or not at all.

    Raises:
        UserError: `refusal`, where a digest is `planned` and theirs is another; nothing is written then.
    """
    import safetensors.torch

    data: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    digest = digest_of(data)
    if planned and digest != planned:
        raise UserError(refusal)
    if not storage.exists(asset_url(url, digest)):
        storage.write_bytes(asset_url(url, digest), data)
    return digest


def fetch(url: str, digest: str, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a digest.

    Raises:
        UserError: they are missing or damaged; `name` is the filter that asks.
    """
    import safetensors.torch

    place = asset_url(url, digest)
    if not digest or not storage.exists(place):
        raise UserError(f"filter {name!r}: {place} is not there; `syncclip synth` with this set's recipe writes it")
    data = storage.read_bytes(place)
    if digest_of(data) != digest:
        raise UserError(f"filter {name!r}: {place} was damaged; remove it and run the same `syncclip synth` again")
    tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
    return tensors
