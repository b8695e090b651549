"""Batches made ahead, in their order: by threads of this process, or by processes of their own."""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from syncclip.settings import UserError
from syncclip.shards.batch import empty_batch

if TYPE_CHECKING:
    from syncclip.shards.batch import Batch
    from syncclip.shards.stream import MixedStream

Place = tuple[int, int]  # epoch, step


class LostLoaderError(RuntimeError):
    """A loader process that ended on its own, or was killed; what it made can be made again."""


def by_threads(stream: MixedStream, places: Iterator[Place], threads: int) -> Iterator[tuple[int, int, Batch]]:
    """Batches of places; each of `threads` makes one ahead, 0 makes them when they are asked for."""
    if threads < 1:
        yield from ((epoch, step, stream.batch(epoch, step)) for epoch, step in places)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="stream") as pool:
        waiting: deque[tuple[int, int, Future[Batch]]] = deque()
        try:
            for epoch, step in places:
                waiting.append((epoch, step, pool.submit(stream.batch, epoch, step)))
                if len(waiting) > threads:
                    epoch, step, ready = waiting.popleft()
                    yield epoch, step, ready.result()
            while waiting:
                epoch, step, ready = waiting.popleft()
                yield epoch, step, ready.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def by_processes(
    stream: MixedStream, first: int, last: int, processes: int, ahead: int, pinned: bool
) -> Iterator[tuple[int, int, Batch]]:
    """Batches of the places first, …, last - 1, counted through all epochs.

    The processes are forked, so each begins with the stream as it stands and shares its tables. What they could not
    read comes back with the batches and is counted here, so that a limit holds for all of them together.

    Args:
        processes: at least 1; each makes whole batches.
        ahead: batches that each keeps ready, at least 1.
        pinned: whether batches come in page-locked memory, from which a GPU copies while it computes.
    """
    loader: DataLoader[_Made] = DataLoader(
        _Places(stream, first, last, _Slots(max(1, ahead) + 1)),
        batch_size=None,
        num_workers=processes,
        prefetch_factor=max(1, ahead),
        pin_memory=pinned,
        worker_init_fn=_begin,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # else it would use up torch's own chance
    )
    slots: dict[int, Tensor] = {}
    for place, made in enumerate(loader, start=first):
        for name, reason, images in made.lost:
            stream.corruption.skip(name, reason, images)
        batch = made.batch
        if isinstance(batch, UserError):
            raise batch
        if not pinned:  # a batch in page-locked memory is a copy already
            slots[batch.images.data_ptr()] = batch.images  # stay mapped
            batch = replace(batch, images=batch.images.clone())
        yield *divmod(place, stream.steps_per_epoch), batch


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Tell of lost loader processes by name. They may be noticed anywhere in the block that uses their batches.

    Raises:
        LostLoaderError: one is lost.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # torch has no type for it
            raise
        raise LostLoaderError(
            f"a loader process was lost ({error}); where memory is short, lower training.loaders, training.ahead or "
            "training.cache_images"
        ) from error


@dataclass(frozen=True)
class _Made:
    """What comes back from a process: a batch or a mistake, and what could not be read since the last one."""

    batch: Batch | UserError
    lost: list[tuple[str, str, int]]

    def pin_memory(self) -> _Made:
        return self if isinstance(self.batch, UserError) else _Made(self.batch.pin_memory(), self.lost)


class _Slots:
    """Shared memory in which a loader process makes its batches, one place after the other and round again.

    Fresh pages for each batch would cost as much as a third of decoding it. A process never has more batches out than
    it may keep ready, and one more that is being copied: so many places, and none is written to while it is read.
    """

    def __init__(self, count: int) -> None:
        self._places: list[Tensor | None] = [None] * count
        self._next = 0

    def room(self, images: int, like: Tensor) -> Tensor:
        """The next place, for so many images like that one."""
        place = self._places[self._next]
        if place is None or len(place) != images or not _alike(place[0], like):
            place = empty_batch(images, like)
            place.share_memory_()  # type: ignore[no-untyped-call]
            self._places[self._next] = place
        self._next = (self._next + 1) % len(self._places)
        return place


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.stride() == other.stride() and one.dtype == other.dtype


class _Places(Dataset[_Made]):
    def __init__(self, stream: MixedStream, first: int, last: int, slots: _Slots) -> None:
        self.stream, self.slots, self._first, self._last = stream, slots, first, last
        self._told = 0

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, number: int) -> _Made:
        stream = self.stream
        made: Batch | UserError
        try:
            made = stream.batch(*divmod(self._first + number, stream.steps_per_epoch))
        except UserError as error:
            made = error
        found = stream.corruption
        lost = [(name, found.reasons[name], images) for name, images in list(found.names.items())[self._told :]]
        self._told = len(found.names)
        return _Made(made, lost)


def _begin(_: int) -> None:
    """In a new process: locks of the parent's threads mean nothing here, and memory is shared out.

    What was there at the fork stays for good, so it isn't gone through for garbage again and again.
    """
    gc.freeze()
    information = get_worker_info()
    assert information is not None and isinstance(information.dataset, _Places)
    information.dataset.stream.begin_anew(information.num_workers, information.dataset.slots.room)
