"""Training loop. Each step depends only on the state and the step number, so resumed runs match uninterrupted runs bit
for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import Parameter

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.core.text import counted, few
from syncclip.methods.parallel import WorkSplit
from syncclip.methods.settings import Optimisation
from syncclip.runtime import shutdown
from syncclip.runtime.determinism import deterministic
from syncclip.runtime.progress import print_message
from syncclip.stream.loader import batches, views, watched
from syncclip.training import distributed
from syncclip.training.checkpoints import Checkpoint
from syncclip.training.optimizers import optimizer_of, rate_at, restore
from syncclip.training.recorder import Listener, RunRecorder, checkpoint_due, open_run
from syncclip.training.run_folder import PROMPTS, RunFolder, RunRecord
from syncclip.training.settings import TrainingSettings, check_shared, warmup_warning

if TYPE_CHECKING:
    from syncclip.methods import Method
    from syncclip.stream.batch import Batch
    from syncclip.stream.mixed import MixedStream


class DivergedError(UserError):
    """Raised on every rank in the same step if a loss or parameter is not finite."""


class StoppedError(RuntimeError):
    """Raised on every rank if the run is interrupted (see `shutdown.requested`) and can be resumed."""


@dataclass(frozen=True)
class TrainJob:
    """Input to the training loop on one rank.

    Args:
        run: folder for the results.
        method: method to train; all ranks start from the initial values of rank 0.
        stream: this rank's part of every batch, or None for a method without training.
        settings: training settings.
        rate: peak learning rate of the method (after warm-up).
        validate: function that returns the current validation score (higher is better), called on rank 0 if
            `keep_best=validation`.
        optimisation: the method's optimiser and schedule, or None for the recipe's SGD.
    """

    run: RunFolder
    method: Method
    stream: MixedStream | None
    settings: TrainingSettings
    rate: float
    validate: Callable[[], float] | None = None
    optimisation: Optimisation | None = None


NOTICE_SECONDS = 1.0
"""Interval in seconds at which all ranks check for a preemption notice, by the clock of rank 0."""

PREPARED_BATCHES = 100
"""Number of batches in the preparation between two checks for an interruption."""


def run(
    job: TrainJob,
    rank: int = 0,
    world_size: int = 1,
    listener: Listener | None = None,
    preempted: Callable[[], bool] = lambda: False,
) -> RunRecord:
    """Train to the end, resuming from the newest intact checkpoint if there is one; do nothing if the run is finished.

    After a crash at any time, repeating the call with the same number of workers produces a `prompts.safetensors` and a
    `metrics.jsonl` that are byte-for-byte identical to those of an uninterrupted run (on CPU, with the same package
    versions and `threads`).

    With several ranks, each rank processes an equal part of every global batch, and gradients are averaged. Except
    for rounding due to the order of summation, the result is the same as with a single rank. Losses that compare images
    or classes use the images and classes of all ranks (see `WorkSplit`).

    Args:
        job: method to train, with its data and settings.
        rank, world_size: this rank and the number of ranks; torch.distributed must be initialised if there are several.
        listener: callback on rank 0 for every logged step.
        preempted: function that returns whether a rank's machine is about to be preempted. Every rank calls it after
            the same steps, so it may be a collective operation.

    Raises:
        UserError: the folder or its checkpoints belong to a different recipe.
        StoppedError: the run was interrupted or received a preemption notice; repeat the call to resume it.
        LostLoaderError: a loader process was killed; repeat the call to resume the run.
        DivergedError: a loss, or a parameter to be saved, is not finite; the parameters are not saved.
    """
    settings = job.settings
    check_shared(settings.batch_size, world_size)
    job.method.to(device_of(settings.device))
    with deterministic(settings.threads):
        learnable = {name: p for name, p in job.method.named_parameters() if p.requires_grad}
        steps = settings.epochs * job.stream.steps_per_epoch if job.stream is not None else 0
        total = steps if learnable and job.method.trains else 0
        warning = warmup_warning(settings, job.rate, job.optimisation) if total else None
        record, state = distributed.from_first(
            rank, world_size, lambda: open_run(job.run, learnable, job.method.memory(), total, world_size, warning)
        )
        if state is None:
            return record
        with distributed.agreed(world_size):
            recorder = RunRecorder(job.run, settings, record, state, listener) if rank == 0 else None
        job.method.work = WorkSplit(rank, world_size, settings.accumulation_steps)
        try:
            _begin(job, learnable, state, world_size, recorder is not None)
            if state.step < total:
                with watched():
                    _train(job, learnable, state, rank, world_size, recorder, preempted)
            with distributed.agreed(world_size):
                _count_together(job.stream, world_size)
                if recorder is not None:
                    recorder.finish(learnable, _reading_notes(job.stream), _share_seen(job))
        finally:
            job.method.work = WorkSplit()
            if recorder is not None:
                recorder.close()
    return record


def _begin(job: TrainJob, learnable: dict[str, Parameter], state: Checkpoint, world_size: int, prints: bool) -> None:
    """Load the state into the method and, if no step has been completed, call the method's `prepare`."""
    for saved, tensors in ((state.parameters, learnable), (state.memory, job.method.memory())):
        _put(saved, tensors, "the checkpoint", "remove the checkpoint, or train in a different folder")
    count, device = job.method.prepares, device_of(job.settings.device)
    if state.step or job.stream is None or not count:
        return

    def interruptible(view: Iterator[Batch], number: int) -> Iterator[Batch]:
        for step, batch in enumerate(view):
            if step % PREPARED_BATCHES == 0 and any(distributed.gathered(shutdown.requested(), world_size)):
                raise StoppedError(f"interrupted in view {number} of {count} of the training images")
            yield batch.to(device)

    def all_views(stream: MixedStream) -> Iterator[Iterator[Batch]]:
        passes = views(stream, count, job.settings.prefetch_threads, job.method.prepares_all)
        for number, view in enumerate(passes, start=1):
            if prints:
                print_message(f"run '{job.run.name}': preparing view {number} of {count} of the training images")
            yield interruptible(view, number)

    job.method.train()
    job.method.prepare(all_views(job.stream))


def _train(
    job: TrainJob,
    learnable: dict[str, Parameter],
    state: Checkpoint,
    rank: int,
    world_size: int,
    recorder: RunRecorder | None,
    preempted: Callable[[], bool],
) -> None:
    """Run all steps from `state` to the end."""
    settings, stream, device = job.settings, job.stream, device_of(job.settings.device)
    assert stream is not None
    total = settings.epochs * stream.steps_per_epoch
    optimizer = optimizer_of(learnable.values(), job.rate, settings, job.optimisation)
    restore(optimizer, learnable, state.momentum)
    epoch, within = divmod(state.step, stream.steps_per_epoch)
    job.method.train()
    prepared = batches(
        stream,
        settings.epochs,
        epoch,
        within,
        threads=settings.prefetch_threads,
        processes=settings.loader_processes,
        pin_memory=device.type == "cuda",
    )
    checked = time.monotonic()
    for step, (epoch, within, batch) in enumerate(prepared, start=state.step):
        rate = rate_at(job.rate, step, stream.steps_per_epoch, settings, job.optimisation)
        for group in optimizer.param_groups:
            group["lr"] = rate
        # The seed is a function of the step, so that checkpoints need no generator state.
        torch.manual_seed(((settings.seed * 1_000_003 + step) * 4099 + rank) % 2**63)
        job.method.step_begins(step, total)
        optimizer.zero_grad(set_to_none=True)
        losses = job.method.loss(batch.to(device))
        losses["total"].backward()  # type: ignore[no-untyped-call]
        # A flag on any rank counts: rank 0 requests checkpoints and checks by its clock; any rank may be interrupted.
        waited = recorder is not None and recorder.waited()
        check = recorder is not None and time.monotonic() - checked >= NOTICE_SECONDS
        flag = shutdown.requested() or waited or check
        values, flagged = distributed.average(list(learnable.values()), losses, world_size, flag)
        _check_finite(values, step + 1, epoch)
        optimizer.step()
        if within + 1 == stream.steps_per_epoch:
            job.method.epoch_ended(epoch + 1, settings.epochs)
        stops = False
        if flagged:
            checked = time.monotonic()
            requests = distributed.gathered((preempted() or shutdown.requested(), waited), world_size)
            stops, waited = (any(request) for request in zip(*requests, strict=True))
        saves = checkpoint_due(step + 1, total, settings.checkpoint_every, stops or waited)
        if saves or step + 1 == total:
            _check_learned(learnable, step + 1, epoch)
        if recorder is not None:
            recorder.log(step + 1, epoch, rate, values)
        if saves:
            with distributed.agreed(world_size):
                _count_together(stream, world_size)
                if recorder is not None:
                    recorder.save(step + 1, learnable, job.method.memory(), optimizer, job.validate, stops)
            if stops:
                raise StoppedError(f"interrupted after step {step + 1} of {total}")


def device_of(name: str, key: str = "training.device") -> torch.device:
    """Return the torch device selected by `name`, the value of the `key` setting.

    Raises:
        UserError: the setting is "cuda", but the machine has no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key} is 'cuda', but this machine has no GPU; use {key}=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _count_together(stream: MixedStream | None, world_size: int) -> None:
    """Sum the numbers of unreadable images over all ranks; raise a UserError if the total exceeds the limit."""
    if stream is not None:
        for account in distributed.gathered(stream.corruption.account(), world_size):
            stream.corruption.include(account)


def _share_seen(job: TrainJob) -> float | None:
    """Return the fraction of synthetic images that the run has read, or None if it uses no synthetic images."""
    if job.stream is None:
        return None
    if job.method.prepares_all:
        return None if job.stream.synthetic is None else 1.0
    epochs = job.settings.epochs if job.method.trains else 1  # `prepare` reads the images of one epoch
    return job.stream.order.share_seen(epochs)


def _reading_notes(stream: MixedStream | None) -> list[str]:
    """Return notes for the record about unreadable images and empty shards."""
    images = stream.corruption.names if stream is not None else {}
    unreadable, empty = [name for name, n in images.items() if n], [name for name, n in images.items() if not n]
    notes = []
    if unreadable:
        count = sum(images.values())
        notes.append(
            f"replaced {counted(count, 'unreadable image')} with other images of the same class: {few(unreadable)}"
        )
    if empty:
        notes.append(f"skipped {counted(len(empty), 'shard')} without images: {few(empty)}")
    return notes


def load_prompts(run: RunFolder, method: Method) -> None:
    """Load the prompts of a finished run into a method built from the same recipe.

    Raises:
        UserError: the run has no prompts yet, or its prompts belong to a different method or backbone.
    """
    learnable = {name: p for name, p in method.named_parameters() if p.requires_grad}
    _put(read_prompts(run), learnable, run.path(PROMPTS), "use the run's own recipe")


def read_prompts(run: RunFolder) -> dict[str, Tensor]:
    """Return a finished run's learned tensors by name.

    Raises:
        UserError: the run has no prompts yet, or its prompts file is damaged.
    """
    path = run.path(PROMPTS)
    if not storage.exists(path):
        raise UserError(f"{run.url} contains no {PROMPTS}; train first (syncclip train), or check the path")
    saved = storage.parse_tensors(storage.read_verified(path, run.owner), path, "train again in a different folder")
    if wrong := [name for name, tensor in saved.items() if not tensor.to(torch.float64).isfinite().all()]:
        raise UserError(f"{path}: {wrong[0]} contains NaN or infinite values; train again in a different folder")
    return saved


def _put(saved: Mapping[str, Tensor], into: Mapping[str, Tensor], source: str, remedy: str) -> None:
    if {name: value.shape for name, value in saved.items()} != {name: value.shape for name, value in into.items()}:
        raise UserError(f"{source} belongs to a different method or backbone; {remedy}")
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(saved[name])


def _check_finite(losses: dict[str, float], step: int, epoch: int) -> None:
    for name in sorted(losses, key=lambda name: name == "total"):  # report a term rather than the sum
        if not math.isfinite(losses[name]):
            raise DivergedError(
                f"training stopped at step {step} (epoch {epoch + 1}): loss '{name}' is {losses[name]}; lower the "
                "method's learning_rate or its loss weights"
            )


def _check_learned(learnable: Mapping[str, Parameter], step: int, epoch: int) -> None:
    """Raise a DivergedError if a parameter is not finite, for example after a finite loss with an infinite gradient."""
    for name, parameter in learnable.items():
        if not parameter.isfinite().all():
            raise DivergedError(
                f"training stopped after step {step} (epoch {epoch + 1}): {name} contains NaN or infinite values; "
                "lower the method's learning_rate or its loss weights"
            )
