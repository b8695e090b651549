"""Peak memory of a training step, computed with fake tensors (without data)."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, UntypedStorage, autograd, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of tensors from their creation until their last view is freed.

    Attributes:
        now, peak: current and maximum number of live bytes, excluding tensors that existed before.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._live: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._add(tensor.untyped_storage(), size=0)
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            self._add(storage, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _add(self, storage: UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key not in self._live:
            self._live.add(key)
            self.now += size
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._live.discard(key)
        self.now -= size


class _CopyShapes(TorchFunctionMode):
    """Make deep copies of tensors fake in a `FakeTensorMode`, as deep copies of parameters are by default."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            memo[id(tensor)] = tensor.clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def peak_bytes(step: Callable[..., Tensor], *arguments: Any) -> int:
    """Return the peak bytes of a forward and a backward pass, excluding the inputs.

    Args:
        step: function that returns the loss; it is called with fake copies of the arguments.
    """
    mode, count = FakeTensorMode(allow_non_fake_inputs=True), LiveBytes()
    with mode, _CopyShapes():
        fake = copy.deepcopy(arguments)
    with mode, count:
        autograd.backward(step(*fake))
    return count.peak


def measured_peak_bytes(step: Callable[..., Tensor], *arguments: Any) -> int:
    """Return the increase in this process's peak address space, as reported by Linux; the process must be new."""
    before = _status("VmSize")
    autograd.backward(step(*arguments))
    return _status("VmPeak") - before


def _status(name: str) -> int:
    """Return a size in bytes from /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def resident_bytes(*modules: nn.Module) -> int:
    """Return the size in bytes of the modules' parameters and buffers; shared storage is counted once."""
    storages = {
        storage._cdata: storage.nbytes()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        for storage in [tensor.untyped_storage()]
    }
    return sum(storages.values())


def _tensors(tree: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
