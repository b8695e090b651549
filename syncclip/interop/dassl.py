"""Checkpoints of Dassl, the library of the methods' published code: finding, safe reading and writing.

OUTPUT/<name>/model.pth.tar-<epoch>    {"state_dict", "epoch", "optimizer", "scheduler", "val_result"}, pickled by torch
OUTPUT/<name>/model-best.pth.tar       a copy of the best on validation; the default of published code
OUTPUT/<name>/checkpoint               the name of the last one
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.runtime.tempdirs import private_tempdir
from syncclip.storage.exports import Export, require_export

BEST, LAST = "model-best.pth.tar", "checkpoint"
_NUMBERED = re.compile(r"model\.pth\.tar-(\d+)")


@dataclass(frozen=True)
class DasslCheckpoint:
    """A checkpoint. Tensors are memory-mapped if possible, since few of them are prompts."""

    url: str
    epoch: int | None
    state: dict[str, Tensor]


def find_checkpoint(source: str, folders: Sequence[str], epoch: int | None = None) -> str:
    """The path or URL of a checkpoint: `source` itself, or in a folder the best on validation, else the newest.

    Args:
        source: a file, a folder of files, or the output folder above it.
        folders: possible names of folders in the output folder, in order of precedence.
        epoch: epoch of a file in a folder; None: the best, else the newest.

    Raises:
        UserError: there is no checkpoint, or none of that epoch.
    """
    if not storage.exists(source):
        raise UserError(f"{source}: no such file or folder; give a checkpoint or a folder of checkpoints")
    if storage.local_path(source).is_file() if storage.is_local(source) else not storage.listdir(source):
        if epoch is not None:
            raise UserError(f"{source}: a single file; to select epoch {epoch}, give its folder")
        return source
    for folder_url in (source, *(storage.join(source, folder) for folder in folders)):
        names = storage.listdir(folder_url) if storage.exists(folder_url) else []
        numbered = {int(match[1]): name for name in names if (match := _NUMBERED.fullmatch(name))}
        if epoch is not None and numbered:
            if epoch not in numbered:
                epochs = ", ".join(map(str, sorted(numbered)))
                raise UserError(f"{folder_url}: no checkpoint of epoch {epoch}; there are epochs {epochs}")
            return storage.join(folder_url, numbered[epoch])
        if BEST in names and epoch is None:
            return storage.join(folder_url, BEST)
        if numbered:
            return storage.join(folder_url, numbered[max(numbered)])
    expected = "model.pth.tar-N" if epoch is not None else f"{BEST} or model.pth.tar-N"
    raise UserError(f"{source}: no {expected} there or in a folder {' or '.join(folders)}; give the file or its folder")


def read_checkpoint(url: str) -> DasslCheckpoint:
    """Read a checkpoint without running code from it.

    Apart from tensors and plain values it may only contain the scheduler objects that Dassl saves; they are ignored.

    Raises:
        UserError: the file is not a checkpoint of torch, requires code to run, or has no state dict of tensors; or it
            belongs to an export of ours that is damaged or unfinished.
    """
    require_export(url.rpartition("/")[0] or ".")
    if storage.is_local(url):
        loaded = _load(storage.local_path(url), url)
    else:
        with private_tempdir() as folder:
            storage.fetch(url, copy := folder / "checkpoint")
            loaded = _load(copy, url)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"{url}: has no state dict of tensors; give a checkpoint of a method's published code")
    epoch = loaded.get("epoch")
    return DasslCheckpoint(url, epoch if isinstance(epoch, int) else None, {str(k): t for k, t in state.items()})


def write_checkpoint(out: Export, state: Mapping[str, Tensor], epoch: int) -> str:
    """Write the files of Dassl's last epoch, without optimiser and scheduler; returns the checkpoint's path or URL."""
    tensors = OrderedDict((name, tensor.detach().cpu().clone()) for name, tensor in state.items())
    buffer = io.BytesIO()
    torch.save(
        {"state_dict": tensors, "epoch": epoch, "optimizer": None, "scheduler": None, "val_result": None}, buffer
    )
    name = f"model.pth.tar-{epoch}"
    files = {name: buffer.getvalue(), BEST: buffer.getvalue(), LAST: f"{name}\n".encode()}
    for file, data in files.items():
        out.write(file, data)
    return storage.join(out.url, name)


class _Inert:
    """Placeholder of an ignored object: accepts any arguments and state."""

    def __new__(cls, *_: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# Dassl's warm-up schedulers save their successor as an object, which includes the optimiser; evaluators save numpy
# scalars. None of these is imported: inert classes have their names.
_IGNORED: list[Any] = [
    dict,
    type("defaultdict", (), {"__module__": "collections", "__new__": lambda *_: {}}),
    *(
        type(name, (_Inert,), {"__module__": module})
        for module, names in {
            "torch.optim.lr_scheduler": ("CosineAnnealingLR", "MultiStepLR", "StepLR"),
            "torch.optim.sgd": ("SGD",),
            "torch.optim.adam": ("Adam",),
            "torch.optim.adamw": ("AdamW",),
            "torch.optim.rmsprop": ("RMSprop",),
            "dassl.optim.radam": ("RAdam",),
            "numpy": ("dtype",),
            "numpy.core.multiarray": ("scalar",),
            "numpy._core.multiarray": ("scalar",),
        }.items()
        for name in names
    ),
]


def _load(path: Path, label: str) -> Any:
    """Load a file with torch's restricted unpickler; tensors of a zip file stay on disk until use."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_IGNORED):
            warnings.simplefilter("ignore")  # about the pickle protocol; errors are reported below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # malformed bytes may break the reader in any way
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise UserError(
                f"{label}: would run {code[1]!r} when read, so it was rejected; a checkpoint of prompts needs only "
                "tensors and plain values (no code of it was run)"
            ) from error
        raise UserError(f"{label}: not a torch checkpoint, or damaged; give a file such as model.pth.tar-10") from error
