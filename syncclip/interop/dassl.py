"""The checkpoint files of Dassl, on which the methods' published code stands: found, read without trust, written.

OUTPUT/<name>/model.pth.tar-<epoch>    {"state_dict", "epoch", "optimizer", "scheduler", "val_result"}, pickled by torch
OUTPUT/<name>/model-best.pth.tar       a copy of the best on validation, which is what the published code loads unasked
OUTPUT/<name>/checkpoint               the name of the last
"""

from __future__ import annotations

import io
import pickle
import re
import tempfile
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

BEST, LAST = "model-best.pth.tar", "checkpoint"
_NUMBERED = re.compile(r"model\.pth\.tar-(\d+)")


@dataclass(frozen=True)
class DasslCheckpoint:
    """What a file holds of interest. Tensors may lie in the file yet: a whole CLIP is not read for a few prompts."""

    place: str
    epoch: int | None
    state: dict[str, Tensor]


def find_checkpoint(source: str, folders: Sequence[str], epoch: int | None = None) -> str:
    """The file that is meant: `source` itself, or of a folder the best on validation, else the newest.

    Args:
        source: a file, a folder of files, or the output folder above it.
        folders: how folders in the output folder may be called; the first that there is counts.
        epoch: of the file in the folder that is meant; None: the best, else the newest.

    Raises:
        UserError: nothing is there, or not of that epoch.
    """
    if not storage.exists(source):
        raise UserError(f"{source}: no such file or folder; give a checkpoint or the folder that holds some")
    if storage.local_path(source).is_file() if storage.is_local(source) else not storage.listdir(source):
        if epoch is not None:
            raise UserError(f"{source} is one file; an epoch (here {epoch}) chooses among those of a folder")
        return source
    for place in (source, *(storage.join(source, folder) for folder in folders)):
        names = storage.listdir(place) if storage.exists(place) else []
        numbered = {int(match[1]): name for name in names if (match := _NUMBERED.fullmatch(name))}
        if epoch is not None and numbered:
            if epoch not in numbered:
                there = ", ".join(map(str, sorted(numbered)))
                raise UserError(f"{place}: no checkpoint of epoch {epoch}; there are those of {there}")
            return storage.join(place, numbered[epoch])
        if BEST in names and epoch is None:
            return storage.join(place, BEST)
        if numbered:
            return storage.join(place, numbered[max(numbered)])
    wanted = "model.pth.tar-N" if epoch is not None else f"{BEST} or model.pth.tar-N"
    raise UserError(f"{source}: no {wanted} there or in a folder {' or '.join(folders)}; give the file or its folder")


def read_checkpoint(place: str) -> DasslCheckpoint:
    """Read a file without running anything that it brings.

    Besides tensors and plain values only the schedulers that Dassl saves whole may be in it; they are passed over.

    Raises:
        UserError: no file of torch's, one that asks for code, or one without a state dict of tensors.
    """
    if storage.is_local(place):
        loaded = _load(storage.local_path(place), place)
    else:
        with tempfile.TemporaryDirectory() as folder:
            storage.fetch(place, copy := Path(folder) / "checkpoint")
            loaded = _load(copy, place)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"{place}: holds no state dict of tensors; give a checkpoint of a method's published code")
    epoch = loaded.get("epoch")
    return DasslCheckpoint(place, epoch if isinstance(epoch, int) else None, {str(k): t for k, t in state.items()})


def write_checkpoint(folder: str, state: Mapping[str, Tensor], epoch: int) -> str:
    """Write what Dassl writes after its last epoch, without optimiser and scheduler; returns the checkpoint's path.

    After a crash each file is either whole or as it was before.
    """
    tensors = OrderedDict((name, tensor.detach().cpu().clone()) for name, tensor in state.items())
    buffer = io.BytesIO()
    torch.save(
        {"state_dict": tensors, "epoch": epoch, "optimizer": None, "scheduler": None, "val_result": None}, buffer
    )
    name = f"model.pth.tar-{epoch}"
    files = {name: buffer.getvalue(), BEST: buffer.getvalue(), LAST: f"{name}\n".encode()}
    for file, data in files.items():
        storage.write_bytes(storage.join(folder, file), data)
    return storage.join(folder, name)


class _Inert:
    """Stands for an object that nothing needs: takes whatever it is made of, and does nothing."""

    def __new__(cls, *_: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _inert(path: str) -> type:
    """A class under the name of another, which is never imported."""
    module, _, name = path.rpartition(".")
    return type(name, (_Inert,), {"__module__": module})


# Dassl's schedulers save the scheduler that follows their warm-up as a whole object, and that holds the optimiser.
# Evaluators of other code leave numbers of numpy's.
_PASSED_OVER: list[Any] = [
    dict,
    type("defaultdict", (), {"__module__": "collections", "__new__": lambda *_: {}}),
    *map(
        _inert,
        (
            "torch.optim.lr_scheduler.CosineAnnealingLR",
            "torch.optim.lr_scheduler.MultiStepLR",
            "torch.optim.lr_scheduler.StepLR",
            "torch.optim.sgd.SGD",
            "torch.optim.adam.Adam",
            "torch.optim.adamw.AdamW",
            "torch.optim.rmsprop.RMSprop",
            "dassl.optim.radam.RAdam",
            "numpy.dtype",
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray.scalar",
        ),
    ),
]


def _load(path: Path, label: str) -> Any:
    """What torch's restricted unpickler makes of a file; tensors of a zip file stay on disk until they are used."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_PASSED_OVER):
            warnings.simplefilter("ignore")  # of the pickle's protocol: what can't be read is told below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # foreign bytes may break the reader in any way
        asked = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if asked:
            raise UserError(
                f"{label}: asks to run {asked[1]!r} while it is read, and was refused: a checkpoint of prompts needs "
                "tensors and plain values only; nothing of it was run"
            ) from error
        raise UserError(
            f"{label}: no checkpoint that torch can read, or a damaged one; give a file such as model.pth.tar-10"
        ) from error
