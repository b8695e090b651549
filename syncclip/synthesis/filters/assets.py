"""Filter assets: tensors stored in the dataset's folder, named after the checksum of their content.

Assets ensure that all images are filtered with identical weights, even if the dataset is extended on a machine without
the user's files.
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
    """Return the first 16 hex digits of the SHA-256 hash of `data`."""
    return hashlib.sha256(data).hexdigest()[:16]


def asset_url(url: str, checksum: str) -> str:
    """Return the URL of the tensors with this checksum in the dataset at `url`."""
    return storage.join(url, FOLDER, f"{checksum}.safetensors")


def store(url: str, tensors: Mapping[str, torch.Tensor], planned: str, mismatch: str) -> str:
    """Store tensors and return their checksum; raise a UserError with message `mismatch` if it is not `planned`."""
    import safetensors.torch

    data: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    checksum = checksum_of(data)
    if planned and checksum != planned:
        raise UserError(mismatch)
    if not storage.exists(asset_url(url, checksum)):
        storage.write_bytes(asset_url(url, checksum), data)
    return checksum


def fetch(url: str, checksum: str, name: str) -> dict[str, torch.Tensor]:
    """Read the tensors of the `name` filter; raise a UserError if they are missing or damaged."""
    import safetensors.torch

    path = asset_url(url, checksum)
    if not checksum or not storage.exists(path):
        raise UserError(f"filter {name!r}: {path} is missing; run `syncclip synth` with the dataset's recipe")
    data = storage.read_bytes(path)
    if checksum_of(data) != checksum:
        raise UserError(f"filter {name!r}: {path} is corrupt; remove the file, and run `syncclip synth` again")
    tensors: dict[str, torch.Tensor] = safetensors.torch.load(data)
    return tensors
