"""Shared memory in which loader processes make their batches, lent to whoever takes them and used again afterwards.

Fresh pages for each batch would cost as much as a third of decoding it, and a copy of it a tenth. To hand memory over
takes a connection, so it is done once for each slot; from then on its number says enough.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import weakref
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from syncclip.shards.batch import empty_batch


class Slots:
    """The memory of one process. A slot is written to again only after it came back; where none did, there is one more.

    Made before the fork: the process that makes batches calls `room` and `sent`, the one that takes them `lend`.
    """

    def __init__(self) -> None:
        self.last = -1
        """The slot that was given out last."""
        self._slots: list[Tensor] = []
        self._free: list[int] = []
        self._known: set[int] = set()  # to the other side
        self._back, self._home = multiprocessing.Pipe(duplex=False)
        self._mapped: dict[int, Tensor] = {}

    def room(self, images: int, like: Tensor) -> Tensor:
        """Memory for so many images like that one, not yet filled."""
        while self._back.poll():
            self._free.append(int.from_bytes(self._back.recv_bytes(), "little"))
        if not self._free:
            self._slots.append(torch.empty(0))
            self._free.append(len(self._slots) - 1)
        self.last = self._free.pop()  # the one that came back last: some of it may still lie in a cache
        place = self._slots[self.last]
        if len(place) != images or not _alike(place[0], like):
            place = empty_batch(images, like)
            place.share_memory_()  # type: ignore[no-untyped-call]
            self._slots[self.last] = place
            self._known.discard(self.last)
        return place

    def sent(self) -> Tensor | None:
        """What the other side needs beside the number of the last slot: its memory, or nothing where it has that."""
        if self.last in self._known:
            return None
        self._known.add(self.last)
        return self._slots[self.last]

    def lend(self, slot: int, images: Tensor | None) -> Tensor:
        """The images in a slot, which goes back when nobody holds this tensor, or a view of it, any more.

        Args:
            images: What was sent with its number.
        """
        images = self._mapped[slot] if images is None else images
        self._mapped[slot] = images
        memory = torch.empty(0, dtype=torch.uint8).set_(images.untyped_storage()).numpy()
        weakref.finalize(memory, _send, self._home, slot).atexit = False
        return torch.from_numpy(memory).view(images.dtype).as_strided(images.shape, images.stride())


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.stride() == other.stride() and one.dtype == other.dtype


def _send(home: Connection, slot: int) -> None:
    with contextlib.suppress(OSError):  # its process has ended
        home.send_bytes(slot.to_bytes(4, "little"))
