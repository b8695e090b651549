"""Shared memory for the batches of loader processes: lent to the process that takes them, and reused afterwards.

Fresh pages for each batch would cost as much as a third of decoding it, and a copy of it a tenth. A piece of memory
goes over to the other process once, through a socket that is opened for it; from then on its number is enough.
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
    """The memory of one loader process. A slot is written to again only after it came back; if none did, one is added.

    Made before the fork: the process that makes batches calls `room` and `to_send`, the one that takes them `lend`.
    """

    def __init__(self) -> None:
        self.last = -1
        """The slot that was given out last."""
        self._slots: list[tuple[_Layout | None, Tensor]] = []
        self._free: list[int] = []
        self._sent: set[int] = set()
        self._mapped: dict[int, Tensor] = {}  # where batches are taken
        self._returned, self._returns = multiprocessing.Pipe(duplex=False)

    def room(self, images: int, like: Tensor) -> Tensor:
        """Memory for so many images like that one, not yet filled."""
        while self._returned.poll():
            self._free.append(int.from_bytes(self._returned.recv_bytes(), "little"))
        if not self._free:
            self._slots.append((None, torch.empty(0)))
            self._free.append(len(self._slots) - 1)
        self.last = self._free.pop()  # the one that came back last: some of it may still be in a cache
        layout = (images, like.shape, like.stride(), like.dtype)
        if self._slots[self.last][0] != layout:
            memory = empty_batch(images, like)
            memory.share_memory_()  # type: ignore[no-untyped-call]
            self._slots[self.last] = layout, memory
            self._sent.discard(self.last)
        return self._slots[self.last][1]

    def to_send(self) -> Tensor | None:
        """The memory of the last slot, to go with its number; None where it went before."""
        if self.last in self._sent:
            return None
        self._sent.add(self.last)
        return self._slots[self.last][1]

    def lend(self, slot: int, memory: Tensor | None) -> Tensor:
        """The images in a slot, which goes back once this tensor and all its views are gone.

        Args:
            memory: What came with the slot's number.
        """
        images = self._mapped[slot] if memory is None else memory
        self._mapped[slot] = images
        held = torch.empty(0, dtype=torch.uint8).set_(images.untyped_storage()).numpy()
        weakref.finalize(held, _send_back, self._returns, slot, os.getpid()).atexit = False
        return torch.from_numpy(held).view(images.dtype).as_strided(images.shape, images.stride())


def _send_back(returns: Connection, slot: int, borrower: int) -> None:
    if os.getpid() != borrower:  # forked from it: the batch is still read there
        return
    with contextlib.suppress(OSError):  # the process that would write to it has ended
        returns.send_bytes(slot.to_bytes(4, "little"))
