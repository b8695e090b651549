"""Loader that prefetches batches in order, in threads or processes."""

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


class LostLoaderError(RuntimeError):
    """Raised if a loader process exits unexpectedly; its batches can be recomputed."""


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
    """Yield (epoch, step, batch) tuples from a given step of a given epoch to the end of the last epoch.

    `threads` and `processes` affect only the speed.

    Args:
        threads: number of threads, each of which prefetches one batch. If `processes` is positive, this is instead the
            number of batches prefetched by each process.
        processes: number of processes, which are faster than threads if the GIL is the bottleneck; 0 uses threads.
            Batches from processes are stored in reused shared memory, and each batch keeps a file descriptor open. To
            keep hundreds of batches, clone their images.
        pin_memory: whether to copy batches to pinned memory.
    """
    first, last = epoch * stream.steps_per_epoch + step, epochs * stream.steps_per_epoch
    if processes and first < last:
        prepared = _by_processes(stream, first, last, processes, threads)
    else:
        positions = (divmod(number, stream.steps_per_epoch) for number in range(first, last))
        prepared = _by_threads(((*position, partial(stream.batch, *position)) for position in positions), threads)
    yield from _pinned(prepared) if pin_memory else prepared


def views(stream: MixedStream, count: int, threads: int = 0, whole: bool = False) -> Iterator[Iterator[Batch]]:
    """Yield `count` passes over all real images, in the same order but with different augmentations.

    Repeated images within a pass have the label -1, since each real image must be counted only once.

    Args:
        whole: whether a pass contains all selected synthetic images once, in separate batches, rather than only those
            sampled in the first epoch.
    """
    return ((_whole_view if whole else _view)(stream, view, threads) for view in range(count))


def _whole_view(stream: MixedStream, view: int, threads: int) -> Iterator[Batch]:
    calls = ((0, step, partial(stream.batch_of_pass, step, view)) for step in range(stream.order.steps_per_pass))
    return (batch for _, _, batch in _by_threads(calls, threads))


def _view(stream: MixedStream, view: int, threads: int) -> Iterator[Batch]:
    length = stream.steps_per_epoch
    positions = (divmod(step, length) for step in range(max(length, stream.order.steps_per_round)))
    calls = ((*position, partial(stream.batch, *position, view)) for position in positions)
    for epoch, step, batch in _by_threads(calls, threads):
        labels, real = batch.labels.clone(), batch.sizes[0]
        labels[real - stream.order.repeated(epoch * length + step, stream.rank, stream.world_size) : real] = -1
        yield replace(batch, labels=labels)


def _by_threads(
    calls: Iterator[tuple[int, int, Callable[[], Batch]]], threads: int
) -> Iterator[tuple[int, int, Batch]]:
    """Yield the results of the calls in order; each thread prefetches one batch."""
    if threads < 1:
        yield from ((epoch, step, call()) for epoch, step, call in calls)
        return
    with thread_pool(threads, "stream") as pool:
        yield from _in_order(pool, calls, threads)


def _pinned(prepared: Iterator[tuple[int, int, Batch]]) -> Iterator[tuple[int, int, Batch]]:
    """Copy batches to pinned memory, for asynchronous transfers to a GPU.

    A background thread copies one batch ahead, so errors are also raised one batch early.
    """
    device = torch.cuda.current_device() if torch.cuda.is_available() else -1  # a new thread uses device 0 by default
    with thread_pool(1, "pin", initializer=torch.cuda.set_device, initargs=(device,)) as pool:
        yield from _in_order(pool, ((epoch, step, batch.pin_memory) for epoch, step, batch in prepared), 1)


def _in_order(
    pool: ThreadPoolExecutor, calls: Iterator[tuple[int, int, Callable[[], Batch]]], ahead: int
) -> Iterator[tuple[int, int, Batch]]:
    """Yield the results of the calls in order, while the pool's threads prefetch up to `ahead` results."""
    pending: deque[tuple[int, int, Future[Batch]]] = deque()
    for epoch, step, call in calls:
        pending.append((epoch, step, pool.submit(call)))
        if len(pending) > ahead:
            epoch, step, future = pending.popleft()
            yield epoch, step, future.result()
    while pending:
        epoch, step, future = pending.popleft()
        yield epoch, step, future.result()


def _by_processes(
    stream: MixedStream, first: int, last: int, processes: int, ahead: int
) -> Iterator[tuple[int, int, Batch]]:
    """Yield the batches of steps `first` to `last` - 1, counted over all epochs; each batch is prepared by one process.

    The processes are forked and share the stream's tables. Each process prefetches `ahead` batches (at least one).
    The calling process counts the unreadable images of all processes, since the limit applies to the total.
    """
    slots = [Slots() for _ in range(processes)]
    loader: DataLoader[_Result] = DataLoader(
        _Steps(stream, first, last, slots),
        batch_size=None,
        num_workers=processes,
        prefetch_factor=max(1, ahead),
        worker_init_fn=_initialise,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # the default advances torch's global generator
    )
    for number, result in enumerate(loader, start=first):
        for name, reason, images in result.lost:
            stream.corruption.skip(name, reason, images)
        batch = result.batch
        if isinstance(batch, UserError):
            raise batch
        lender = slots[result.process]  # a local variable with the images would keep their slot in use
        yield *divmod(number, stream.steps_per_epoch), replace(batch, images=lender.lend(result.slot, result.memory))


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Convert torch's RuntimeError about a dead loader process, which can occur anywhere, to a LostLoaderError."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # torch has no type for this error
            raise
        raise LostLoaderError(
            f"a loader process exited unexpectedly ({error}); if it ran out of memory, lower "
            "training.loader_processes, training.prefetch_threads or training.cache_images"
        ) from error


@dataclass(frozen=True)
class _Result:
    """Output of a loader process: a batch or a user error, and all unreadable images since the previous output."""

    batch: Batch | UserError  # without its images
    lost: list[tuple[str, str, int]]
    process: int
    slot: int  # number of the slot with the images
    memory: Tensor | None  # memory of the slot, if it has not been sent before


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


def _initialise(_: int) -> None:
    """Initialise a forked process, and exclude objects created before the fork from garbage collection."""
    gc.freeze()
    information = get_worker_info()
    assert information is not None and isinstance(information.dataset, _Steps)
    steps = information.dataset
    steps.process = information.id
    steps.stream.after_fork(information.num_workers, steps.slots[information.id].allocate)
