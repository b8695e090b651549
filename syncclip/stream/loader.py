"""Prefetching of batches, in order, by threads or by processes."""

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


Position = tuple[int, int]  # epoch, step


class LostLoaderError(RuntimeError):
    """A loader process ended unexpectedly; its batches can be recomputed."""


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
    """(epoch, step, batch) from a position to the end of `epochs`; the batches do not depend on how they are prepared.

    Args:
        threads: number of threads that prepare batches ahead, one each; with `processes`, batches that each process
            keeps ready.
        processes: number of processes that prepare batches instead, where the GIL is the bottleneck; 0: none. Their
            batches are in lent memory with a file descriptor each: clone the images to keep hundreds.
        pin_memory: return batches in page-locked memory.
    """
    first, last = epoch * stream.steps_per_epoch + step, epochs * stream.steps_per_epoch
    if processes and first < last:
        prepared = by_processes(stream, first, last, processes, threads)
    else:
        positions = (divmod(number, stream.steps_per_epoch) for number in range(first, last))
        prepared = by_threads(stream, positions, threads)
    yield from pin_ahead(prepared) if pin_memory else prepared


def views(stream: MixedStream, count: int, threads: int = 0) -> Iterator[Iterator[Batch]]:
    """`count` passes over each real image of the first epochs: the same images and order, different augmentations.

    A real image that occurs again in a pass has the label -1, so that each image can be counted once.

    Args:
        threads: number of threads that prepare batches ahead, one each.
    """
    for view in range(count):
        yield _view(stream, view, threads)


def _view(stream: MixedStream, view: int, threads: int) -> Iterator[Batch]:
    length = stream.steps_per_epoch
    positions = (divmod(step, length) for step in range(max(length, stream.steps_per_round)))
    calls = ((*position, partial(stream.batch, *position, view)) for position in positions)
    with thread_pool(max(threads, 1), "stream") as pool:
        for epoch, step, batch in _in_order(pool, calls, threads):
            labels, real = batch.labels.clone(), batch.sizes[0]
            labels[real - stream.repeated(epoch * length + step) : real] = -1
            yield replace(batch, labels=labels)


def by_threads(stream: MixedStream, positions: Iterator[Position], threads: int) -> Iterator[tuple[int, int, Batch]]:
    """Batches of the positions; each of `threads` prepares one ahead, 0 prepares them on demand."""
    if threads < 1:
        yield from ((epoch, step, stream.batch(epoch, step)) for epoch, step in positions)
        return
    with thread_pool(threads, "stream") as pool:
        calls = ((*position, partial(stream.batch, *position)) for position in positions)
        yield from _in_order(pool, calls, threads)


def pin_ahead(prepared: Iterator[tuple[int, int, Batch]]) -> Iterator[tuple[int, int, Batch]]:
    """The same batches in page-locked memory, from which a GPU copies while it computes.

    A thread copies one batch ahead, so an error of the next batch is raised one batch early.
    """
    device = torch.cuda.current_device() if torch.cuda.is_available() else -1  # the thread's default is the first one
    with thread_pool(1, "pin", initializer=torch.cuda.set_device, initargs=(device,)) as pool:
        yield from _in_order(pool, ((epoch, step, batch.pin_memory) for epoch, step, batch in prepared), 1)


def _in_order(
    pool: ThreadPoolExecutor, calls: Iterator[tuple[int, int, Callable[[], Batch]]], ahead: int
) -> Iterator[tuple[int, int, Batch]]:
    """The results of the calls in order; the pool's threads prepare up to `ahead` of them while one is used."""
    pending: deque[tuple[int, int, Future[Batch]]] = deque()
    for epoch, step, call in calls:
        pending.append((epoch, step, pool.submit(call)))
        if len(pending) > ahead:
            epoch, step, future = pending.popleft()
            yield epoch, step, future.result()
    while pending:
        epoch, step, future = pending.popleft()
        yield epoch, step, future.result()


def by_processes(
    stream: MixedStream, first: int, last: int, processes: int, ahead: int
) -> Iterator[tuple[int, int, Batch]]:
    """Batches of the steps first, …, last - 1, counted over all epochs.

    The processes are forked and share the stream's tables. They return unreadable images with the batches, which are
    counted here, so that the limit applies to all of them together.

    Args:
        processes: at least 1; each prepares whole batches.
        ahead: batches that each keeps ready, at least 1.
    """
    slots = [Slots() for _ in range(processes)]
    loader: DataLoader[_Result] = DataLoader(
        _Steps(stream, first, last, slots),
        batch_size=None,
        num_workers=processes,
        prefetch_factor=max(1, ahead),
        worker_init_fn=_begin,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # the default is torch's global generator
    )
    for number, result in enumerate(loader, start=first):
        for name, reason, images in result.lost:
            stream.corruption.skip(name, reason, images)
        batch = result.batch
        if isinstance(batch, UserError):
            raise batch
        lender = slots[result.process]  # no local variable must reference the images while they are used
        yield *divmod(number, stream.steps_per_epoch), replace(batch, images=lender.lend(result.slot, result.memory))


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raise a LostLoaderError for torch's RuntimeError about a lost loader process, which may occur anywhere."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # torch has no type for it
            raise
        raise LostLoaderError(
            f"a loader process was lost ({error}); if memory is short, lower training.loader_processes, "
            "training.prefetch_threads or training.cache_images"
        ) from error


@dataclass(frozen=True)
class _Result:
    """The output of a process: a batch or a user error, and the unreadable images since the last one."""

    batch: Batch | UserError  # without its images
    lost: list[tuple[str, str, int]]
    process: int
    slot: int  # of the process, with the images
    memory: Tensor | None  # of the slot, if it is new


class _Steps(Dataset[_Result]):
    def __init__(self, stream: MixedStream, first: int, last: int, slots: Sequence[Slots]) -> None:
        self.stream, self.slots, self._first, self._last = stream, slots, first, last
        self.process = 0  # set in each process
        self._reported = 0

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, number: int) -> _Result:
        stream, slots = self.stream, self.slots[self.process]
        result: Batch | UserError
        try:
            batch = stream.batch(*divmod(self._first + number, stream.steps_per_epoch))
            result, memory = replace(batch, images=torch.empty(0)), slots.to_send()
        except UserError as error:
            result, memory = error, None
        names, reasons = stream.corruption.names, stream.corruption.reasons
        lost = [(name, reasons[name], images) for name, images in list(names.items())[self._reported :]]
        self._reported = len(names)
        return _Result(result, lost, self.process, slots.last, memory)


def _begin(_: int) -> None:
    """Initialise a forked process; objects that exist at the fork are excluded from garbage collection."""
    gc.freeze()
    information = get_worker_info()
    assert information is not None and isinstance(information.dataset, _Steps)
    steps = information.dataset
    steps.process = information.id
    steps.stream.after_fork(information.num_workers, steps.slots[information.id].room)
