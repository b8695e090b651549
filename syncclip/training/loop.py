"""The training loop: each step is a pure function of the state and the step's number."""

from __future__ import annotations

import math
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
    """A loss or a parameter is not finite. Every rank raises it in the same step."""


class StoppedError(RuntimeError):
    """The run was interrupted (see `shutdown.requested`) and has written a checkpoint. Every rank raises it."""


@dataclass(frozen=True)
class TrainJob:
    """The input of a training on one rank.

    Args:
        run: folder of the results.
        method: its parameters that require gradients are learned; rank 0's initial values are sent to the others.
        stream: this rank's part of every batch; None for a method that learns nothing.
        settings: settings of the training.
        rate: the method's learning rate after the warm-up.
        optimisation: the method's own optimiser; None: the recipe's SGD.
        validate: score of a checkpoint, the higher the better, for `keep_best=validation`; called on the first rank.
    """

    run: RunFolder
    method: Method
    stream: MixedStream | None
    settings: TrainingSettings
    rate: float
    validate: Callable[[], float] | None = None
    optimisation: Optimisation | None = None


def run(job: TrainJob, rank: int = 0, world_size: int = 1, listener: Listener | None = None) -> RunRecord:
    """Train to the end, from the newest intact checkpoint if there is one; do nothing if the run is finished.

    After a crash at any moment, the same call on the same number of workers results in bitwise the same
    `prompts.safetensors` and `metrics.jsonl` as an uninterrupted run (on CPU, with the same versions and `threads`).

    With several ranks each takes an equal part of every global batch, and gradients are averaged: for losses that are
    means over images this equals one rank's result, up to the order of summation. Methods gather from all ranks what a
    loss compares across images or classes (see `WorkSplit`).

    Args:
        job: the method, its data and settings.
        rank, world_size: this worker among all; several require torch.distributed to be initialised.
        listener: called at every logged step, on rank 0.

    Returns:
        The run's record.

    Raises:
        UserError: the folder or its checkpoints belong to another recipe.
        StoppedError: the run was interrupted; the same call resumes it.
        LostLoaderError: a loader process was killed; the same call resumes the run.
        DivergedError: a loss is not finite, or a parameter when a checkpoint or the end is due; nothing is written.
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
                    _train(job, learnable, state, rank, world_size, recorder)
            with distributed.agreed(world_size):
                _count_together(job.stream, world_size)
                if recorder is not None:
                    epochs = settings.epochs if job.method.trains else 1  # `prepare` uses one
                    seen = job.stream.share_seen(epochs) if job.stream is not None else None
                    recorder.finish(learnable, _reading_notes(job.stream), seen)
        finally:
            job.method.work = WorkSplit()
            if recorder is not None:
                recorder.close()
    return record


def _begin(job: TrainJob, learnable: dict[str, Parameter], state: Checkpoint, world_size: int, speaks: bool) -> None:
    """Load the state into the method and, before the first step, call its `prepare`; an interruption discards that."""
    _put(state.parameters, learnable)
    _put(state.memory, job.method.memory())
    count, device = job.method.prepares, device_of(job.settings.device)
    if state.step or job.stream is None or not count:
        return

    def shown(stream: MixedStream) -> Iterator[Iterator[Batch]]:
        for number, view in enumerate(views(stream, count, job.settings.prefetch_threads), start=1):
            if any(distributed.gathered(shutdown.requested(), world_size)):
                raise StoppedError(f"interrupted before view {number} of {count}")
            if speaks:
                print_message(f"{job.run.name}: view {number} of {count} of the training images, before the first step")
            yield (batch.to(device) for batch in view)

    job.method.train()
    job.method.prepare(shown(job.stream))


def _train(
    job: TrainJob,
    learnable: dict[str, Parameter],
    state: Checkpoint,
    rank: int,
    world_size: int,
    recorder: RunRecorder | None,
) -> None:
    """All steps from `state` to the end."""
    settings, stream = job.settings, job.stream
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
        pin_memory=device_of(settings.device).type == "cuda",
    )
    for step, (epoch, within, batch) in enumerate(prepared, start=state.step):
        rate = rate_at(job.rate, step, stream.steps_per_epoch, settings, job.optimisation)
        for group in optimizer.param_groups:
            group["lr"] = rate
        # Random numbers are a function of the step, so that checkpoints need no generator state.
        torch.manual_seed(((settings.seed * 1_000_003 + step) * 4099 + rank) % 2**63)
        job.method.step_begins(step, total)
        losses = _backward(job.method, optimizer, batch)
        # Rank 0's clock decides, but any rank may be interrupted; the flag is shared with all.
        flag = shutdown.requested() or (recorder is not None and recorder.waited())
        values, waited = distributed.average(list(learnable.values()), losses, world_size, flag)
        _check_finite(values, step + 1, epoch)
        optimizer.step()
        if within + 1 == stream.steps_per_epoch:
            job.method.epoch_ended(epoch + 1, settings.epochs)
        stops = waited and any(distributed.gathered(shutdown.requested(), world_size))
        saves = checkpoint_due(step + 1, total, settings.checkpoint_every, waited)
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


def _backward(method: Method, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, Tensor]:
    device = next(method.parameters()).device
    optimizer.zero_grad(set_to_none=True)
    losses = method.loss(batch.to(device))
    losses["total"].backward()  # type: ignore[no-untyped-call]
    return losses


def device_of(name: str, key: str = "training.device") -> torch.device:
    """The torch device of `training.device` or another setting.

    Raises:
        UserError: it is a GPU, and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key} is 'cuda', but there is no GPU here; use {key}=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _count_together(stream: MixedStream | None, world_size: int) -> None:
    """Share unreadable images with all ranks; a user error if they are too many."""
    if stream is not None:
        for account in distributed.gathered(stream.corruption.account(), world_size):
            stream.corruption.include(account)


def _reading_notes(stream: MixedStream | None) -> list[str]:
    """Notes on unreadable images and empty shards."""
    names = stream.corruption.names if stream is not None else {}
    lost, empty = ([name for name, images in names.items() if (images > 0) == unread] for unread in (True, False))
    notes = []
    if lost:
        count = sum(names[name] for name in lost)
        notes.append(f"{count} unreadable image(s) were replaced by others of their class: {few(lost)}")
    if empty:
        notes.append(f"{counted(len(empty), 'shard')} without any image skipped: {few(empty)}")
    return notes


def load_prompts(run: RunFolder, method: Method) -> None:
    """Load the prompts of a finished run into a method built from the same recipe.

    Raises:
        UserError: the run has no prompts yet, or those of another method or backbone.
    """
    saved = read_prompts(run)
    learnable = {name: p for name, p in method.named_parameters() if p.requires_grad}
    if {n: v.shape for n, v in saved.items()} != {n: p.shape for n, p in learnable.items()}:
        raise UserError(
            f"{run.path(PROMPTS)} contains prompts of another method or backbone; evaluate with the run's own recipe"
        )
    _put(saved, learnable)


def read_prompts(run: RunFolder) -> dict[str, Tensor]:
    """The prompts of a finished run by name.

    Raises:
        UserError: the run has none yet, or their file is damaged.
    """
    path = run.path(PROMPTS)
    if not storage.exists(path):
        raise UserError(f"{run.url} contains no {PROMPTS}; train first (syncclip train), or check the path")
    saved = storage.parse_tensors(storage.read_verified(path, run.owner), path, "train again in another folder")
    if wrong := [name for name, tensor in saved.items() if not tensor.to(torch.float64).isfinite().all()]:
        raise UserError(f"{path}: {wrong[0]} contains numbers that are not finite; train again in another folder")
    return saved


def _put(saved: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (saved, into)]
    if shapes[0] != shapes[1]:  # the recipe's hash determines them, unless the file was edited
        raise UserError(
            "the checkpoint contains tensors of another method or backbone; remove it, or train in another folder"
        )
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(saved[name])


def _check_finite(losses: dict[str, float], step: int, epoch: int) -> None:
    for name in sorted(losses, key=lambda name: name == "total"):  # the term before the sum
        if not math.isfinite(losses[name]):
            raise DivergedError(
                f"training stopped in step {step} (epoch {epoch + 1}): loss '{name}' is {losses[name]}; lower the "
                "method's learning_rate or its loss weights"
            )


def _check_learned(learnable: Mapping[str, Parameter], step: int, epoch: int) -> None:
    """Raise a DivergedError if a finite loss with an infinite gradient has spoiled a parameter."""
    for name, parameter in learnable.items():
        if not parameter.isfinite().all():
            raise DivergedError(
                f"training stopped after step {step} (epoch {epoch + 1}): {name} contains numbers that are not finite; "
                "lower the method's learning_rate or its loss weights"
            )
