"""Shared memory in which loader processes make their batches, lent to whoever takes them and used again afterwards.

Fresh pages for each batch would cost as much as a third of decoding it, and a copy of it a tenth.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import weakref
from multiprocessing.connection import Connection

import torch
from torch import Tensor


class Slots:
    """The memory of one process. A slot is written to again only after it came back; where none did, there is one more.

    Made before the fork: the process that makes batches calls `room`, the one that takes them `lend` or `give_back`.
    """

    def __init__(self) -> None:
        self.last = -1
        """The slot that was given out last."""
        self._slots: list[Tensor] = []
        self._free: list[int] = []
        self._back, self._home = multiprocessing.Pipe(duplex=False)
        self._mapped: dict[int, Tensor] = {}

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory for a batch's images, not yet filled."""
        while self._back.poll():
            self._free.append(int.from_bytes(self._back.recv_bytes(), "little"))
        if not self._free:
            self._slots.append(torch.empty(0))
            self._free.append(len(self._slots) - 1)
        self.last = self._free.pop()  # the one that came back last: some of it may still lie in a cache
        place = self._slots[self.last]
        if place.shape != shape or place.dtype != dtype:
            place = torch.empty(shape, dtype=dtype)
            place.share_memory_()  # type: ignore[no-untyped-call]
            self._slots[self.last] = place
        return place

    def lend(self, images: Tensor, slot: int) -> Tensor:
        """What came from a slot, which goes back when nobody holds this tensor, or a view of it, any more."""
        self._mapped[slot] = images  # stays mapped: the next batch in it comes at no cost
        bytes_ = images.view(torch.uint8).numpy()
        weakref.finalize(bytes_, _send, self._home, slot).atexit = False
        return torch.from_numpy(bytes_).view(images.dtype)

    def give_back(self, slot: int) -> None:
        """Let a slot be written to again."""
        _send(self._home, slot)


def _send(home: Connection, slot: int) -> None:
    with contextlib.suppress(OSError):  # its process has ended
        home.send_bytes(slot.to_bytes(4, "little"))
