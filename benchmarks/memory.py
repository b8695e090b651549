"""How much memory a step needs at its peak, without using it: tensors are counted, not allocated."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, UntypedStorage, autograd, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors from the operation that makes them to the end of their last view.

    Attributes:
        now, peak: bytes alive now, and at most so far; tensors from before the counting are left out.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._meet(tensor.untyped_storage(), size=0)
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            self._meet(storage, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _meet(self, storage: UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += size
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class _CopyShapes(TorchFunctionMode):
    """Inside a `FakeTensorMode`: the deep copy of a tensor is a fake one. (That of a parameter is so by itself.)"""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            memo[id(tensor)] = tensor.clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def imagined(thing: T) -> tuple[T, FakeTensorMode]:
    """A copy of modules and tensors with shapes and types, but without numbers and memory; and the mode it lives in."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, _CopyShapes():
        return copy.deepcopy(thing), mode


def peak_bytes(step: Callable[..., Tensor], *given: Any) -> int:
    """Bytes that a forward and a backward pass need at most, beside their inputs.

    Args:
        step: called with (copies of) what is given, returns the loss.
    """
    imaginary, mode = imagined(given)
    count = LiveBytes()
    with mode, count:
        autograd.backward(step(*imaginary))
    return count.peak


def measured_peak_bytes(step: Callable[..., Tensor], *given: Any) -> int:
    """The same on Linux as the system measures it for this process, which must be new: its peak is never reset.

    Of its address space: how much of that lies in memory depends on what the system takes away from it meanwhile.
    """
    before = _status("VmSize")
    autograd.backward(step(*given))
    return _status("VmPeak") - before


def _status(name: str) -> int:
    """Bytes that Linux tells of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def resident_bytes(*modules: nn.Module) -> int:
    """Bytes of the parameters and buffers of modules, each tensor once."""
    storages = {
        storage._cdata: storage.nbytes()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        for storage in [tensor.untyped_storage()]
    }
    return sum(storages.values())


def _tensors(tree: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
