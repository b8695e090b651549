"""Output of rank 0: metrics, trackers, checkpoints and results."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import Parameter

from syncclip import storage
from syncclip.core.text import counted
from syncclip.runtime.progress import print_message
from syncclip.training import checkpoints
from syncclip.training.checkpoints import Checkpoint
from syncclip.training.optimizers import state_of
from syncclip.training.run_folder import (
    CHECKPOINTS,
    EVENTS,
    METRICS,
    PROMPTS,
    MetricsFile,
    RunFolder,
    RunRecord,
    digest_of,
    lines_until,
    versions,
)
from syncclip.training.settings import TrainingSettings
from syncclip.training.trackers import Trackers

Listener = Callable[[int, int, dict[str, float], float], None]
"""Callback for every metrics line: (completed steps, total steps, losses, real images/s since the last line)."""


def open_run(
    run: RunFolder,
    learnable: Mapping[str, Parameter],
    memory: Mapping[str, Tensor],
    total_steps: int,
    workers: int,
    warning: str | None = None,
) -> tuple[RunRecord, Checkpoint | None]:
    """Return the run's record and its state: the newest intact checkpoint, the initial state, or None if the run is
    finished.

    Damaged checkpoints are reported and removed. The record's notes contain `warning` and messages about resuming.

    Raises:
        UserError: the folder, or a checkpoint in it, belongs to a different recipe.
    """
    earlier = run.open()
    if earlier is not None and run.finished(earlier):
        print_message(f"run '{run.name}' is already finished; the prompts are in {run.url}")
        return earlier, None
    record = RunRecord(
        name=run.name,
        recipe_hash=run.recipe_hash,
        total_steps=total_steps,
        workers=workers,
        versions=versions(),
        inputs=run.inputs,
        notes=earlier.notes if earlier is not None else [],
    )
    if warning is not None and warning not in record.notes:
        record.notes.append(warning)
    folder = run.path(CHECKPOINTS)
    storage.sweep(folder)
    metrics = run.path(METRICS)
    state = checkpoints.newest(folder, run.recipe_hash, record.note, lambda step: digest_of(lines_until(metrics, step)))
    if state is None:
        state = Checkpoint(0, _copied(learnable), memory=_copied(memory), workers=workers)
    else:
        record.note(f"run '{run.name}' resumes after step {state.step} of {total_steps}")
        if state.workers != workers:
            before = counted(state.workers, "worker")
            record.note(
                f"the checkpoint was written by {before}, but the run resumes with {workers}; "
                "the last bits of the results may differ"
            )
        if earlier is not None and earlier.versions != record.versions:
            changed = sorted(f"{k} {v}" for k, v in earlier.versions.items() if record.versions.get(k) != v)
            record.note(
                f"the run was started with different versions ({', '.join(changed)}); "
                "the last bits of the results may differ"
            )
    checkpoints.discard_after(folder, state.step)
    record.steps, record.seconds = state.step, state.seconds
    run.write_recipe()
    run.write(record)
    return record, state


def _copied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in values.items()}


class RunRecorder:
    """Writer of a run's metrics, tracker logs, checkpoints and record; the run starts or resumes from `state`."""

    def __init__(
        self,
        run: RunFolder,
        settings: TrainingSettings,
        record: RunRecord,
        state: Checkpoint,
        listener: Listener | None = None,
    ) -> None:
        self._run, self._settings, self._record, self._listener = run, settings, record, listener
        self._metrics = MetricsFile(run.path(METRICS), state.step)
        self._trackers = Trackers(run, settings, state.step, record.note)
        self._seconds_before = state.seconds
        self._began = time.perf_counter()
        self._logged = (state.step, self._began)
        self._saved = self._began
        self._totals = list(state.unscored)  # total losses since the last scored checkpoint

    def log(self, done: int, epoch: int, rate: float, losses: dict[str, float]) -> None:
        """Log the losses of step `done`, counted from 1, if a metrics line is due."""
        total = self._record.total_steps
        self._totals.append(losses["total"])
        if not log_due(done, total, self._settings.log_every):
            return
        self._metrics.write(step=done, epoch=epoch, lr=rate, **losses)
        (step_before, time_before), self._logged = self._logged, (done, time.perf_counter())
        speed = self._settings.batch_size * (done - step_before) / max(self._logged[1] - time_before, 1e-9)
        scalars = {f"loss/{name}": value for name, value in losses.items()}
        self._trackers.write(done, scalars | {"rate": rate, "speed/real_images_per_s": speed})
        if self._listener is not None:
            self._listener(done, total, losses, speed)

    def save(
        self,
        done: int,
        learnable: Mapping[str, Parameter],
        memory: Mapping[str, Tensor],
        optimizer: torch.optim.Optimizer,
        validate: Callable[[], float] | None = None,
        last: bool = False,
    ) -> None:
        """Sync the metrics up to step `done`, then commit a checkpoint.

        Args:
            validate: see `TrainJob`.
            last: whether the run is interrupted. A checkpoint written on interruption gets no score, so the best
                checkpoint is the same as in an uninterrupted run.
        """
        self._metrics.sync()
        self._trackers.sync()
        score = None if last else self._score(validate)
        unscored = self._totals if last and self._settings.keep_best == "loss" else ()
        facts = self._record.workers, self._seconds(), score, unscored, self._metrics.digest
        state = Checkpoint(done, dict(learnable), state_of(optimizer, learnable), dict(memory), *facts)
        checkpoints.write(self._run.path(CHECKPOINTS), state, self._run.recipe_hash, self._settings.keep_checkpoints)
        self._saved, self._totals = time.perf_counter(), []
        self._record.steps, self._record.seconds = done, state.seconds
        self._record.status = "interrupted" if last else "running"
        self._run.write(self._record)

    def waited(self) -> bool:
        """Return whether `checkpoint_minutes` have passed or a full disk has prevented metrics from being written.

        In either case, a checkpoint is due. If the disk is still full, writing it fails and all ranks stop.
        """
        minutes = self._settings.checkpoint_minutes
        late = minutes is not None and time.perf_counter() - self._saved >= 60 * minutes
        return late or self._metrics.behind

    def finish(self, learnable: Mapping[str, Parameter], notes: Sequence[str] = (), seen: float | None = None) -> None:
        """Write the prompts, then the record of the finished run."""
        self._metrics.sync()
        self._trackers.sync()
        tensors = {name: p.detach().cpu().contiguous() for name, p in learnable.items()}
        storage.write_with_checksum(self._run.path(PROMPTS), safetensors.torch.save(tensors), owner=self._run.owner)
        self._record.status, self._record.steps, self._record.seen = "finished", self._record.total_steps, seen
        self._record.seconds = self._seconds()
        self._record.logs = {METRICS: self._metrics.digest, **self._events()}
        self._record.notes.extend(notes)
        if (best := checkpoints.best(self._run.path(CHECKPOINTS))) is not None:
            by, value = self._settings.keep_best, abs(best[1])
            self._record.notes.append(f"the best checkpoint by {by} is from step {best[0]} ({value:.4g})")
        self._run.write(self._record)

    def close(self) -> None:
        """Close files and trackers; also called after an error."""
        self._metrics.close()
        self._trackers.close(self._record.status == "finished")

    def _events(self) -> dict[str, str]:
        """Return the SHA-256 of each TensorBoard event file, keyed by file name."""
        if "tensorboard" not in self._settings.trackers:
            return {}
        names = [name for name in storage.sizes(self._run.url) if EVENTS in name]
        return {name: hashlib.sha256(storage.read_bytes(self._run.path(name))).hexdigest() for name in sorted(names)}

    def _score(self, validate: Callable[[], float] | None) -> float | None:
        """Return the score of the current state (higher is better), or None without `keep_best`."""
        if self._settings.keep_best == "loss":
            return -statistics.fmean(self._totals)
        if self._settings.keep_best == "validation":
            assert validate is not None, "required for keep_best=validation"
            return validate()
        return None

    def _seconds(self) -> float:
        return round(self._seconds_before + time.perf_counter() - self._began, 3)


def checkpoint_due(done: int, total: int, every: int, waited: bool = False) -> bool:
    """Return whether a checkpoint is due after `done` steps, on schedule or on request (see `RunRecorder.waited`)."""
    return 0 < done < total and (waited or done % every == 0)


def log_due(done: int, total: int, every: int) -> bool:
    """Return whether to log step `done`, counted from 1: the first, the last, and every multiple of `every`."""
    return done in (1, total) or done % every == 0
