"""Shared memory for batches from loader processes, reused when the consuming process releases a batch.

Allocating new pages for each batch would take a third of the decoding time, and copying a batch would take a tenth. A
slot's memory is sent to the consuming process through a socket only once; later batches send just the slot's number.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import weakref
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from syncclip.stream.batch import empty_batch

_Layout = tuple[int, torch.Size, tuple[int, ...], torch.dtype]


class Slots:
    """A loader process's shared memory, as a growing list of slots.

    Create `Slots` before the fork. The loader process calls `allocate` and `to_send`; the consuming process calls
    `lend`.
    """

    def __init__(self) -> None:
        self.last = -1
        """Number of the slot that contains the last batch."""
        self._slots: list[tuple[_Layout | None, Tensor]] = []
        self._free: list[int] = []
        self._sent: set[int] = set()
        self._mapped: dict[int, Tensor] = {}  # in the consuming process
        self._returned, self._returns = multiprocessing.Pipe(duplex=False)

    def allocate(self, images: int, like: Tensor) -> Tensor:
        """Return uninitialised memory for a batch, from a released or new slot; see `empty_batch` for the arguments."""
        while self._returned.poll():
            self._free.append(int.from_bytes(self._returned.recv_bytes(), "little"))
        if not self._free:
            self._slots.append((None, torch.empty(0)))
            self._free.append(len(self._slots) - 1)
        self.last = self._free.pop()  # the slot released last may still be in a CPU cache
        layout = (images, like.shape, like.stride(), like.dtype)
        if self._slots[self.last][0] != layout:
            memory = empty_batch(images, like)
            memory.share_memory_()  # type: ignore[no-untyped-call]
            self._slots[self.last] = layout, memory
            self._sent.discard(self.last)
        return self._slots[self.last][1]

    def to_send(self) -> Tensor | None:
        """Return the last slot's memory, to be sent along with its number, or None if it has already been sent."""
        if self.last in self._sent:
            return None
        self._sent.add(self.last)
        return self._slots[self.last][1]

    def lend(self, slot: int, memory: Tensor | None) -> Tensor:
        """Return the images in a slot, which is released when the returned tensor and all its views are deleted.

        Args:
            memory: result of `to_send` in the loader process.
        """
        images = self._mapped[slot] if memory is None else memory
        self._mapped[slot] = images
        lent = torch.empty(0, dtype=torch.uint8).set_(images.untyped_storage()).numpy()
        weakref.finalize(lent, _release, self._returns, slot, os.getpid()).atexit = False
        return torch.from_numpy(lent).view(images.dtype).as_strided(images.shape, images.stride())


def _release(returns: Connection, slot: int, borrower: int) -> None:
    if os.getpid() != borrower:  # a forked process, whose parent still uses the batch
        return
    with contextlib.suppress(OSError):  # the loader process has ended
        returns.send_bytes(slot.to_bytes(4, "little"))
