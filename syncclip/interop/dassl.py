"""Find, read and write checkpoints in the format of Dassl, the library used by the methods' published code.

OUTPUT/<name>/model.pth.tar-<epoch>    {"state_dict", "epoch", "optimizer", "scheduler", "val_result"}, pickled by torch
OUTPUT/<name>/model-best.pth.tar       copy of the best checkpoint on validation data; the default in published code
OUTPUT/<name>/checkpoint               name of the last checkpoint
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
    """Checkpoint contents. Tensors are memory-mapped if possible, since only a few of them are prompts."""

    url: str
    epoch: int | None
    state: dict[str, Tensor]


def find_checkpoint(source: str, folders: Sequence[str], epoch: int | None = None) -> str:
    """Return a checkpoint's path or URL: `source` itself or, for a folder, the best or else the newest checkpoint.

    Args:
        source: checkpoint, checkpoint folder, or Dassl's output folder.
        folders: subfolders of the output folder to search, in order of precedence.
        epoch: epoch to select in a folder; default: the best checkpoint or, if there is none, the newest.

    Raises:
        UserError: `source` contains no checkpoint, or no checkpoint for `epoch`.
    """
    if not storage.exists(source):
        raise UserError(f"{source}: no such file or folder; specify a checkpoint or a checkpoint folder")
    if storage.local_path(source).is_file() if storage.is_local(source) else not storage.listdir(source):
        if epoch is not None:
            raise UserError(f"{source} is not a folder; to select epoch {epoch}, specify the checkpoint folder")
        return source
    for folder_url in (source, *(storage.join(source, folder) for folder in folders)):
        names = storage.listdir(folder_url) if storage.exists(folder_url) else []
        numbered = {int(match[1]): name for name in names if (match := _NUMBERED.fullmatch(name))}
        if epoch is not None and numbered:
            if epoch not in numbered:
                epochs = ", ".join(map(str, sorted(numbered)))
                raise UserError(f"{folder_url} has no checkpoint for epoch {epoch}; available epochs: {epochs}")
            return storage.join(folder_url, numbered[epoch])
        if BEST in names and epoch is None:
            return storage.join(folder_url, BEST)
        if numbered:
            return storage.join(folder_url, numbered[max(numbered)])
    expected = "model.pth.tar-N" if epoch is not None else f"{BEST} or model.pth.tar-N"
    subfolders = " or ".join(folders)
    raise UserError(f"{source}: no {expected} in this folder or in {subfolders}; specify the checkpoint or its folder")


def read_checkpoint(url: str) -> DasslCheckpoint:
    """Read a checkpoint without executing code in the file.

    The checkpoint may contain tensors, plain values and objects saved by Dassl. Saved objects, such as schedulers, are
    ignored.

    Raises:
        UserError: the file is not a PyTorch checkpoint, would execute code when loaded, contains no state dict of
            tensors, or belongs to a corrupt or unfinished export.
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
        raise UserError(f"{url} contains no state dict of tensors; use a checkpoint saved by a method's published code")
    epoch = loaded.get("epoch")
    return DasslCheckpoint(url, epoch if isinstance(epoch, int) else None, {str(k): t for k, t in state.items()})


def write_checkpoint(out: Export, state: Mapping[str, Tensor], epoch: int) -> str:
    """Write a Dassl checkpoint for the last epoch, without optimiser and scheduler states; return its path or URL."""
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
    """Placeholder that replaces ignored objects and accepts any arguments and state."""

    def __new__(cls, *_: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# Dassl's warm-up schedulers save their successor, including its optimiser, as an object; evaluators save NumPy scalars.
# Placeholders with the same names replace these classes, which are not imported.
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
    """Load a file with PyTorch's restricted unpickler; tensors in zip files are memory-mapped."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_IGNORED):
            warnings.simplefilter("ignore")  # warnings about the pickle protocol
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # malformed bytes raise nearly any exception
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise UserError(
                f"{label} was not loaded because loading would call {code[1]!r}; use a checkpoint that contains only "
                "tensors and plain values"
            ) from error
        raise UserError(
            f"{label} is corrupt or not a PyTorch checkpoint; use a file such as model.pth.tar-10"
        ) from error
