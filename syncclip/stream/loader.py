"""Batches prepared ahead, in order: by threads of this process, or by processes of their own."""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from syncclip.core.settings import UserError
from syncclip.runtime.threads import thread_pool
from syncclip.stream.shared_memory import Slots

if TYPE_CHECKING:
    from syncclip.stream.batch import Batch
    from syncclip.stream.mixed import MixedStream


Place = tuple[int, int]  # epoch, step


class LostLoaderError(RuntimeError):
    """A loader process ended on its own, or was killed; its batches can be made again."""


def batches(
    stream: MixedStream,
    epochs: int,
    epoch: int = 0,
    step: int = 0,
    *,
    threads: int = 0,
    processes: int = 0,
    pin_memory: bool = False,
) -> Iterator[tuple[int, int, Batch]]:
    """(epoch, step, batch) from a place on to the end of `epochs`; how they are prepared changes nothing in them.

    Args:
        threads: That make batches ahead, one each; with `processes`, batches that each of those keeps ready.
        processes: That decode instead of threads, where one process's lock is what holds up; 0 for none. A batch
            is then in memory that they lend, with a descriptor for each: clone its images to keep hundreds.
        pin_memory: Whether batches come in page-locked memory.
    """
    first, last = epoch * stream.steps_per_epoch + step, epochs * stream.steps_per_epoch
    if processes and first < last:
        made = by_processes(stream, first, last, processes, threads)
    else:
        places = (divmod(place, stream.steps_per_epoch) for place in range(first, last))
        made = by_threads(stream, places, threads)
    yield from pin_ahead(made) if pin_memory else made


def views(stream: MixedStream, count: int, threads: int = 0) -> Iterator[Iterator[Batch]]:
    """So many passes over the first epoch, or over as many as show each real image: the same images in the same order,
    in each cropped and flipped anew.

    A real image that a pass shows again has the label -1, so that each image can be counted once.

    Args:
        threads: That make batches ahead, one each.
    """
    for view in range(count):
        yield _view(stream, view, threads)


def _view(stream: MixedStream, view: int, threads: int) -> Iterator[Batch]:
    each = stream.steps_per_epoch
    places = (divmod(step, each) for step in range(max(each, stream.steps_per_round)))
    calls = ((*place, partial(stream.batch, *place, view)) for place in places)
    with thread_pool(max(threads, 1), "stream") as pool:
        for epoch, step, batch in _in_order(pool, calls, threads):
            labels, real = batch.labels.clone(), batch.sizes[0]
            labels[real - stream.repeated(epoch * each + step) : real] = -1
            yield replace(batch, labels=labels)


def by_threads(stream: MixedStream, places: Iterator[Place], threads: int) -> Iterator[tuple[int, int, Batch]]:
    """Batches of places; each of `threads` makes one ahead, 0 makes them when they are asked for."""
    if threads < 1:
        yield from ((epoch, step, stream.batch(epoch, step)) for epoch, step in places)
        return
    with thread_pool(threads, "stream") as pool:
        yield from _in_order(pool, ((*place, partial(stream.batch, *place)) for place in places), threads)


def pin_ahead(made: Iterator[tuple[int, int, Batch]]) -> Iterator[tuple[int, int, Batch]]:
    """The same batches in page-locked memory, from which a GPU copies while it computes.

    A thread copies one batch ahead, so an error of the next batch is raised one batch early.
    """
    device = torch.cuda.current_device() if torch.cuda.is_available() else -1  # else the thread would take the first
    with thread_pool(1, "pin", initializer=torch.cuda.set_device, initargs=(device,)) as pool:
        yield from _in_order(pool, ((epoch, step, batch.pin_memory) for epoch, step, batch in made), 1)


def _in_order(
    pool: ThreadPoolExecutor, calls: Iterator[tuple[int, int, Callable[[], Batch]]], ahead: int
) -> Iterator[tuple[int, int, Batch]]:
    """What the calls of places give, in their order; so many are made by the threads of a pool while one is used."""
    waiting: deque[tuple[int, int, Future[Batch]]] = deque()
    for epoch, step, call in calls:
        waiting.append((epoch, step, pool.submit(call)))
        if len(waiting) > ahead:
            epoch, step, ready = waiting.popleft()
            yield epoch, step, ready.result()
    while waiting:
        epoch, step, ready = waiting.popleft()
        yield epoch, step, ready.result()


def by_processes(
    stream: MixedStream, first: int, last: int, processes: int, ahead: int
) -> Iterator[tuple[int, int, Batch]]:
    """Batches of the places first, …, last - 1, counted through all epochs.

    The processes are forked, so each begins with the stream as it stands and shares its tables. What they could not
    read comes back with the batches and is counted here, so that a limit holds for all of them together.

    Args:
        processes: at least 1; each makes whole batches.
        ahead: batches that each keeps ready, at least 1.
    """
    slots = [Slots() for _ in range(processes)]
    loader: DataLoader[_Made] = DataLoader(
        _Places(stream, first, last, slots),
        batch_size=None,
        num_workers=processes,
        prefetch_factor=max(1, ahead),
        worker_init_fn=_begin,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # else it would draw from torch's global generator
    )
    for place, made in enumerate(loader, start=first):
        for name, reason, images in made.lost:
            stream.corruption.skip(name, reason, images)
        batch = made.batch
        if isinstance(batch, UserError):
            raise batch
        lender = slots[made.process]  # nothing here holds the images while they are used
        yield *divmod(place, stream.steps_per_epoch), replace(batch, images=lender.lend(made.slot, made.memory))


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Name lost loader processes as such. They may be noticed anywhere in the block that uses their batches.

    Raises:
        LostLoaderError: one is lost.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # torch has no type for it
            raise
        raise LostLoaderError(
            f"a loader process was lost ({error}); where memory is short, lower training.loader_processes, "
            f"training.prefetch_threads or "
            "training.cache_images"
        ) from error


@dataclass(frozen=True)
class _Made:
    """What comes back from a process: a batch or a mistake, and what could not be read since the last one."""

    batch: Batch | UserError  # its images are left out
    lost: list[tuple[str, str, int]]
    process: int
    slot: int  # of the process, which holds the images
    memory: Tensor | None  # of the slot, where it is new


class _Places(Dataset[_Made]):
    def __init__(self, stream: MixedStream, first: int, last: int, slots: Sequence[Slots]) -> None:
        self.stream, self.slots, self._first, self._last = stream, slots, first, last
        self.process = 0  # set in each process
        self._told = 0

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, number: int) -> _Made:
        stream, slots = self.stream, self.slots[self.process]
        made: Batch | UserError
        try:
            batch = stream.batch(*divmod(self._first + number, stream.steps_per_epoch))
            made, memory = replace(batch, images=torch.empty(0)), slots.to_send()
        except UserError as error:
            made, memory = error, None
        found = stream.corruption
        lost = [(name, found.reasons[name], images) for name, images in list(found.names.items())[self._told :]]
        self._told = len(found.names)
        return _Made(made, lost, self.process, slots.last, memory)


def _begin(_: int) -> None:
    """In a new process: locks of the parent's threads mean nothing here, and memory is shared out.

    What was there at the fork stays for good, so it isn't gone through for garbage again and again.
    """
    gc.freeze()
    information = get_worker_info()
    assert information is not None and isinstance(information.dataset, _Places)
    places = information.dataset
    places.process = information.id
    places.stream.begin_anew(information.num_workers, places.slots[information.id].room)
