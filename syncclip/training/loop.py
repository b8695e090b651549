"""The one training loop: step after step, each a pure function of the state and the step's number."""

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
from syncclip.runtime.progress import say
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
    """A loss, or what is learned, is no longer a number. Every rank raises it in the same step."""


class StoppedError(RuntimeError):
    """The run was asked to stop, see `interruption.requested`, and has written a checkpoint. Every rank raises it."""


@dataclass(frozen=True)
class TrainJob:
    """What one rank needs to train, built and ready.

    Args:
        run: where the results go.
        method: its parameters that require gradients are learned; the builder has seeded them
            (rank 0's are sent to the others).
        stream: this rank's part of every batch; None for a method that learns nothing.
        settings: of the training.
        rate: the method's learning rate after the warm-up.
        optimisation: the method's own; None: the recipe's SGD.
        validate: what the best checkpoint is chosen by where the settings ask for it, higher being better; called on
            the first rank alone.
    """

    run: RunFolder
    method: Method
    stream: MixedStream | None
    settings: TrainingSettings
    rate: float
    validate: Callable[[], float] | None = None
    optimisation: Optimisation | None = None


def run(job: TrainJob, rank: int = 0, world_size: int = 1, listener: Listener | None = None) -> RunRecord:
    """Train to the end, from the newest whole checkpoint if there is one; do nothing if the run is finished.

    After a crash at any moment, the same call on the same number of workers ends with bitwise the same
    `prompts.safetensors` and `metrics.jsonl` as an unbroken run (on CPU, with the same versions and `threads`). At
    most the steps since the last checkpoint are repeated.

    With several ranks each takes an equal part of every global batch, and the gradients are averaged: for losses
    that are means over images this is what one rank computes, up to the order of summation. What a loss compares
    across the images of a batch, or across classes, the method gathers from all ranks (see `WorkSplit`).

    Args:
        job: what to train on what.
        rank, world_size: this worker among all; torch.distributed must be initialised if there are several.
        listener: called at every logged step, on rank 0.

    Returns:
        The run's record, on rank 0 as it was written.

    Raises:
        UserError: the folder holds another recipe's run, or its checkpoints do.
        StoppedError: it was asked to stop; the same call goes on.
        LostLoaderError: a loader process was killed; the same call goes on.
        DivergedError: a loss is not finite; the step is not made, checkpoints before it stay. Or what was learned is
            not finite where a checkpoint or the end is due; neither is written.
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
                    epochs = settings.epochs if job.method.trains else 1  # the one that it was prepared from
                    seen = job.stream.share_seen(epochs) if job.stream is not None else None
                    recorder.finish(learnable, _reading_notes(job.stream), seen)
        finally:
            job.method.work = WorkSplit()
            if recorder is not None:
                recorder.close()
    return record


def _begin(job: TrainJob, learnable: dict[str, Parameter], state: Checkpoint, world_size: int, speaks: bool) -> None:
    """Put the state into the method; before the first step, show it its images if it asks. A stop loses what it saw."""
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
                say(f"{job.run.name}: view {number} of {count} of the training images, before the first step")
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
    made = batches(
        stream,
        settings.epochs,
        epoch,
        within,
        threads=settings.prefetch_threads,
        processes=settings.loader_processes,
        pin_memory=device_of(settings.device).type == "cuda",
    )
    for step, (epoch, within, batch) in enumerate(made, start=state.step):
        rate = rate_at(job.rate, step, stream.steps_per_epoch, settings, job.optimisation)
        for group in optimizer.param_groups:
            group["lr"] = rate
        # A method's random numbers are then a function of the step too: no checkpoint has to hold a generator's state.
        torch.manual_seed(((settings.seed * 1_000_003 + step) * 4099 + rank) % 2**63)
        job.method.step_begins(step, total)
        losses = _backward(job.method, optimizer, batch)
        # Only one clock counts, but any rank may be asked to stop; every rank learns of it.
        wish = shutdown.requested() or (recorder is not None and recorder.waited())
        values, waited = distributed.average(list(learnable.values()), losses, world_size, wish)
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
    """The device that a recipe's `training.device`, or another key, stands for here.

    Raises:
        UserError: it asks for a GPU, and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key} is 'cuda', but there is no GPU here; use {key}=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _count_together(stream: MixedStream | None, world_size: int) -> None:
    """Share with every rank what the others could not read; a user's mistake where that is too much."""
    if stream is not None:
        for account in distributed.gathered(stream.corruption.account(), world_size):
            stream.corruption.include(account)


def _reading_notes(stream: MixedStream | None) -> list[str]:
    """Notes on what could not be read, and on shards that hold nothing."""
    names = stream.corruption.names if stream is not None else {}
    lost, empty = ([name for name, images in names.items() if (images > 0) == unread] for unread in (True, False))
    notes = []
    if lost:
        count = sum(names[name] for name in lost)
        notes.append(f"{count} unreadable image(s) were replaced by others of their class: {few(lost)}")
    if empty:
        notes.append(f"{counted(len(empty), 'shard')} without any image passed over: {few(empty)}")
    return notes


def load_prompts(run: RunFolder, method: Method) -> None:
    """Put the prompts of a finished run into a method built from the same recipe.

    Raises:
        UserError: the run has no prompts yet, or those of another method or backbone.
    """
    saved = read_prompts(run)
    learnable = {name: p for name, p in method.named_parameters() if p.requires_grad}
    if {n: v.shape for n, v in saved.items()} != {n: p.shape for n, p in learnable.items()}:
        raise UserError(
            f"{run.path(PROMPTS)} holds prompts of another method or backbone; evaluate with the run's own recipe"
        )
    _put(saved, learnable)


def read_prompts(run: RunFolder) -> dict[str, Tensor]:
    """The prompts of a finished run, by their names.

    Raises:
        UserError: the run has none yet, or they are damaged; the sentence names the file.
    """
    path = run.path(PROMPTS)
    if not storage.exists(path):
        raise UserError(f"{run.url} holds no {PROMPTS}; train first (syncclip train), or check the path")
    saved = storage.parse_tensors(storage.read_sealed(path, run.owner), path, "train again in another folder")
    if wrong := [name for name, tensor in saved.items() if not tensor.to(torch.float64).isfinite().all()]:
        raise UserError(f"{path}: {wrong[0]} holds numbers that are not finite; train again in another folder")
    return saved


def _put(saved: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (saved, into)]
    if shapes[0] != shapes[1]:  # a recipe's hash decides which there are, unless somebody made the file
        raise UserError(
            "the checkpoint holds tensors of another method or backbone; remove it, or train in another folder"
        )
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(saved[name])


def _check_finite(losses: dict[str, float], step: int, epoch: int) -> None:
    for name in sorted(losses, key=lambda name: name == "total"):  # the term to blame before the sum of all
        if not math.isfinite(losses[name]):
            raise DivergedError(
                f"training stopped in step {step} (epoch {epoch + 1}): loss '{name}' is {losses[name]}; lower the "
                "method's learning_rate or its loss weights"
            )


def _check_learned(learnable: Mapping[str, Parameter], step: int, epoch: int) -> None:
    """What a finite loss with an infinite gradient leaves behind must not become the newest checkpoint."""
    for name, parameter in learnable.items():
        if not parameter.isfinite().all():
            raise DivergedError(
                f"training stopped after step {step} (epoch {epoch + 1}): {name} holds numbers that are not finite; "
                "lower the method's learning_rate or its loss weights"
            )
