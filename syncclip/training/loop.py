"""The one training loop: step after step, each a pure function of the state and the step's number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import Parameter

from syncclip import storage
from syncclip.settings import UserError
from syncclip.training import ranks
from syncclip.training.checkpoints import Checkpoint
from syncclip.training.determinism import pinned
from syncclip.training.ledger import Ledger, Listener, open_run
from syncclip.training.runs import PROMPTS, RunFolder, RunRecord
from syncclip.training.schedule import learning_rate, position
from syncclip.training.settings import TrainingSettings


class Learner(Protocol):
    """The part of a `Method` that training needs: an `nn.Module` with a loss."""

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]: ...

    def loss(self, batch: Any) -> dict[str, Tensor]: ...


class Stream(Protocol):
    """The part of a `MixedStream` that training needs; made for one rank."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batch(self, epoch: int, step: int) -> Any: ...


class DivergedError(UserError):
    """A loss is no longer a number. Every rank raises it in the same step."""


@dataclass(frozen=True)
class TrainJob:
    """What one rank needs to train, built and ready.

    Args:
        run: where the results go.
        method: its parameters that require gradients are learned; the builder has seeded them
            (rank 0's are sent to the others).
        stream: this rank's share of every batch; None for a method that learns nothing.
        settings: of the training.
        rate: the method's learning rate after the warm-up.
    """

    run: RunFolder
    method: Learner
    stream: Stream | None
    settings: TrainingSettings
    rate: float


def run(job: TrainJob, rank: int = 0, world_size: int = 1, listener: Listener | None = None) -> RunRecord:
    """Train to the end, from the newest whole checkpoint if there is one; do nothing if the run is finished.

    After a crash at any moment, the same call on the same number of workers ends with bitwise the same
    `prompts.safetensors` and `metrics.jsonl` as an unbroken run (on CPU, with the same versions and `threads`). At
    most the steps since the last checkpoint are made again.

    With several ranks each takes its share of every global batch and the gradients are added up, weighted so that
    the result is the mean over the global batch: for losses that are means over pictures (the cross entropies) this
    is what one rank computes, up to the order of summation. Losses that look across the pictures of a batch do so
    within a rank's share: alignment's hardest negative is searched among `batch / workers` pictures, so SYNC-CLIP's
    alignment term depends a little on the number of workers.

    Args:
        job: what to train on what.
        rank, world_size: this worker among all; torch.distributed must be initialised if there are several.
        listener: told of every logged step, on rank 0.

    Returns:
        The run's record, on rank 0 as it was written.

    Raises:
        UserError: the folder holds another recipe's run, or its checkpoints do.
        DivergedError: a loss is not finite; the step is not made, checkpoints before it stay.
    """
    settings = job.settings
    if world_size > settings.batch:
        raise UserError(
            f"{world_size} workers cannot share a batch of {settings.batch}; use at most {settings.batch} workers "
            "or a larger training.batch"
        )
    with pinned(settings.threads):
        learnable = {name: p for name, p in job.method.named_parameters() if p.requires_grad}
        total = settings.epochs * job.stream.steps_per_epoch if job.stream is not None and learnable else 0
        record, state = ranks.from_first(rank, world_size, lambda: open_run(job.run, learnable, total, world_size))
        if state is None:
            return record
        optimizer = _optimizer(job, learnable)
        _restore(learnable, optimizer, state)
        ledger = Ledger(job.run, settings, record, state, listener) if rank == 0 else None
        try:
            for step in range(state.step, total):
                _step(job, learnable, optimizer, step, rank, world_size, ledger)
            if ledger is not None:
                ledger.finish(learnable)
        finally:
            if ledger is not None:
                ledger.close()
    return record


def _step(
    job: TrainJob,
    learnable: dict[str, Parameter],
    optimizer: torch.optim.Optimizer | None,
    step: int,
    rank: int,
    world_size: int,
    ledger: Ledger | None,
) -> None:
    settings, stream = job.settings, job.stream
    assert stream is not None and optimizer is not None
    epoch, within = position(step, stream.steps_per_epoch)
    rate = learning_rate(job.rate, epoch, settings.epochs, settings.warmup_epochs, settings.warmup_rate)
    for group in optimizer.param_groups:
        group["lr"] = rate
    # Whatever a method draws is then a function of the step too, and no checkpoint need hold a generator's state.
    torch.manual_seed(((settings.seed * 1_000_003 + step) * 4099 + rank) % 2**63)
    batch = _moved(stream.batch(epoch, within), next(iter(learnable.values())).device)
    optimizer.zero_grad(set_to_none=True)
    share = ranks.share(rank, world_size, settings.batch)
    losses = {name: value * share for name, value in job.method.loss(batch).items()}
    losses["total"].backward()  # type: ignore[no-untyped-call]
    values = ranks.add_up(list(learnable.values()), losses, world_size)
    _check_finite(values, step + 1, epoch)
    optimizer.step()
    if ledger is not None:
        ledger.log(step + 1, epoch, rate, values)
        ledger.save(step + 1, learnable, optimizer)


def _optimizer(job: TrainJob, learnable: dict[str, Parameter]) -> torch.optim.Optimizer | None:
    """SGD as the published trainings use it; None where nothing is learned."""
    if not learnable:
        return None
    return torch.optim.SGD(
        learnable.values(), lr=job.rate, momentum=job.settings.momentum, weight_decay=job.settings.weight_decay
    )


def load_prompts(run_url: str, method: Learner) -> None:
    """Put the prompts of a finished run into a method built from the same recipe.

    Raises:
        UserError: the run has no prompts yet, or those of another method or backbone.
    """
    path = storage.join(run_url, PROMPTS)
    if not storage.exists(path):
        raise UserError(f"{run_url} holds no {PROMPTS}; train first (syncclip train), or check the path")
    try:
        saved = safetensors.torch.load(storage.read_bytes(path))
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({error}); train again in another folder") from error
    learnable = {name: p for name, p in method.named_parameters() if p.requires_grad}
    if {n: v.shape for n, v in saved.items()} != {n: p.shape for n, p in learnable.items()}:
        raise UserError(f"{path} holds prompts of another method or backbone; evaluate with the run's own recipe")
    _restore(learnable, None, Checkpoint(0, saved))


def _restore(learnable: dict[str, Parameter], optimizer: torch.optim.Optimizer | None, state: Checkpoint) -> None:
    assert state.parameters.keys() == learnable.keys(), "a recipe's hash decides which prompts there are"
    with torch.no_grad():
        for name, parameter in learnable.items():
            parameter.copy_(state.parameters[name])
            if optimizer is not None and name in state.momentum:
                optimizer.state[parameter]["momentum_buffer"] = state.momentum[name].to(parameter.device, copy=True)


def _check_finite(losses: dict[str, float], step: int, epoch: int) -> None:
    for name in sorted(losses, key=lambda name: name == "total"):  # the term to blame before the sum of all
        if not math.isfinite(losses[name]):
            raise DivergedError(
                f"training stopped in step {step} (epoch {epoch + 1}): loss '{name}' is {losses[name]}; lower the "
                "method's learning_rate or its loss weights"
            )


def _moved(batch: Any, device: torch.device) -> Any:
    if device.type == "cpu":
        return batch
    tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    moved = {name: value.to(device, non_blocking=True) for name, value in tensors.items() if isinstance(value, Tensor)}
    return dataclasses.replace(batch, **moved)
