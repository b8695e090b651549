"""Files that a plan needs beside its settings, stored in the dataset's folder under the checksum of their content.

So a machine without the user's files can extend a dataset, and every image is scored by the same weights.
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


def checksum_of(data: bytes) -> str:
    """SHA-256 of some content, its first 16 hex digits."""
    return hashlib.sha256(data).hexdigest()[:16]


def asset_url(url: str, checksum: str) -> str:
    """URL of the tensors with this checksum in the dataset at `url`."""
    return storage.join(url, FOLDER, f"{checksum}.safetensors")


def store(url: str, tensors: Mapping[str, torch.Tensor], planned: str, mismatch: str) -> str:
    """Write tensors into the dataset's folder, atomically, and return their checksum.

    Raises:
        UserError: `mismatch`, where the checksum differs from a `planned` one; nothing is written.
    """
    import safetensors.torch

    data: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    checksum = checksum_of(data)
    if planned and checksum != planned:
        raise UserError(mismatch)
    if not storage.exists(asset_url(url, checksum)):
        storage.write_bytes(asset_url(url, checksum), data)
    return checksum


def fetch(url: str, checksum: str, name: str) -> dict[str, torch.Tensor]:
    """The tensors with a checksum.

    Raises:
        UserError: they are missing or damaged; `name` is the filter that needs them.
    """
    import safetensors.torch

    path = asset_url(url, checksum)
    if not checksum or not storage.exists(path):
        raise UserError(f"filter {name!r}: {path} is missing; run `syncclip synth` with the dataset's recipe")
    data = storage.read_bytes(path)
    if checksum_of(data) != checksum:
        raise UserError(f"filter {name!r}: {path} is damaged; remove it and run the same `syncclip synth` again")
    tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
    return tensors
