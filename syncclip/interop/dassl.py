"""Finding, safely reading and writing checkpoints of Dassl, the library that the methods' published code is built on.

OUTPUT/<name>/model.pth.tar-<epoch>    {"state_dict", "epoch", "optimizer", "scheduler", "val_result"}, pickled by torch
OUTPUT/<name>/model-best.pth.tar       a copy of the best on validation, which published code loads by default
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
from syncclip.runtime.tempdirs import scratch_folder
from syncclip.storage.exports import Export, require_export

BEST, LAST = "model-best.pth.tar", "checkpoint"
_NUMBERED = re.compile(r"model\.pth\.tar-(\d+)")


@dataclass(frozen=True)
class DasslCheckpoint:
    """What is read of a file. Tensors are memory-mapped where possible: a few prompts don't need the whole CLIP."""

    place: str
    epoch: int | None
    state: dict[str, Tensor]


def find_checkpoint(source: str, folders: Sequence[str], epoch: int | None = None) -> str:
    """The checkpoint file: `source` itself, or in a folder the best on validation, else the newest.

    Args:
        source: a file, a folder of files, or the output folder above it.
        folders: possible names of folders in the output folder; the first that exists is used.
        epoch: of the file to choose in a folder; None: the best, else the newest.

    Raises:
        UserError: there is none, or none of that epoch.
    """
    if not storage.exists(source):
        raise UserError(f"{source}: no such file or folder; give a checkpoint or the folder of some")
    if storage.local_path(source).is_file() if storage.is_local(source) else not storage.listdir(source):
        if epoch is not None:
            raise UserError(f"{source}: a single file; give its folder to choose by epoch (here {epoch})")
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
    """Read a file without running any code from it.

    Besides tensors and plain values it may only contain the schedulers that Dassl saves whole; they are ignored.

    Raises:
        UserError: not a file of torch's, one that needs code to run, or one without a state dict of tensors; or it lies
            in an export of ours that is damaged or unfinished.
    """
    require_export(place.rpartition("/")[0] or ".")
    if storage.is_local(place):
        loaded = _load(storage.local_path(place), place)
    else:
        with scratch_folder() as folder:
            storage.fetch(place, copy := folder / "checkpoint")
            loaded = _load(copy, place)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"{place}: has no state dict of tensors; give a checkpoint of a method's published code")
    epoch = loaded.get("epoch")
    return DasslCheckpoint(place, epoch if isinstance(epoch, int) else None, {str(k): t for k, t in state.items()})


def write_checkpoint(out: Export, state: Mapping[str, Tensor], epoch: int) -> str:
    """Write what Dassl writes after its last epoch, without optimiser and scheduler; returns the checkpoint's path."""
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
    """Stands for an object that nothing needs: accepts any arguments and state, and does nothing."""

    def __new__(cls, *_: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# Dassl's schedulers save the scheduler that follows their warm-up as an object, which includes the optimiser.
# Evaluators of other code leave numpy scalars. None of these is imported: inert classes take their names.
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
    """What torch's restricted unpickler makes of a file; tensors of a zip file stay on disk until they are used."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_IGNORED):
            warnings.simplefilter("ignore")  # about the pickle's protocol: what can't be read is reported below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # malformed bytes may break the reader in any way
        asked = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if asked:
            raise UserError(
                f"{label}: would run {asked[1]!r} while it is read, and was refused: a checkpoint of prompts needs "
                "only tensors and plain values; no code of it was run"
            ) from error
        raise UserError(
            f"{label}: not a checkpoint that torch can read, or damaged; give a file such as model.pth.tar-10"
        ) from error
