"""A training on Ray Train: the plain loop on one worker or many, restarted where a worker or a node is lost."""

from __future__ import annotations

import contextlib
import json
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from syncclip import storage
from syncclip.core.custom_code import OwnCodeError, own_code_reported
from syncclip.core.session import Session, current
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.methods.registry import find_method
from syncclip.runtime.heartbeat import repeating
from syncclip.runtime.progress import Progress, say
from syncclip.runtime.ray_session import (
    capacity,
    cause_of,
    cluster_address,
    current_resources,
    debugging,
    heed_sigterm,
    heeding,
    local_cpus,
    note_failure,
    noted_failure,
    quiet,
    ray_session,
    telling,
    told,
)
from syncclip.runtime.tempdirs import scratch_folder
from syncclip.storage.status_file import keep_status_file
from syncclip.stream.loader import LostLoaderError
from syncclip.training import checkpoints, distributed
from syncclip.training.loop import DivergedError, StoppedError, TrainJob, run
from syncclip.training.metrics_file import last_line
from syncclip.training.prometheus import TrainingGauges
from syncclip.training.run_folder import CHECKPOINTS, METRICS, RunFolder, RunRecord
from syncclip.training.settings import TrainingSettings
from syncclip.training.status import STATUS, TrainingStatus

Build = Callable[[dict[str, Any], int, int], TrainJob]
"""(spec, rank, world size) -> what this rank needs; a function of a module that the workers can import."""

RESIZE_SECONDS = 30.0
"""How often an elastic training checks whether the cluster has room for more workers; a change restarts all of them."""

LOOK_SECONDS = 10.0
"""How often it is checked whether the cluster still has room for the workers."""


def check_cpus(training: TrainingSettings) -> None:
    """Refuse, before Ray starts, more workers than this machine has CPUs; a cluster may be larger or grow.

    Raises:
        UserError: there are more.
    """
    import ray

    workers, cpus = training.min_workers or training.workers, local_cpus()
    if workers > cpus and cluster_address() is None and not ray.is_initialized():
        raise UserError(
            f"training.workers is {workers}, but this machine has {counted(cpus, 'CPU')}; use at most that many, or "
            "name a cluster in RAY_ADDRESS"
        )


def train_on_ray(
    build: Build, spec: dict[str, Any], folder: RunFolder, settings: TrainingSettings, warning: str | None = None
) -> RunRecord:
    """Run the loop on `settings.workers` workers of a Ray cluster, the initialised one or one of this machine.

    A finished run returns at once, without Ray. Up to `max_failures` losses of a worker or a node are survived: all
    workers start again from the newest checkpoint, which the loop writes itself, so a killed driver loses no more than
    that when the same call is made again, with as many workers or with others. With `min_workers` they are as many as
    the cluster has room for at the time.

    Args:
        build: makes the job on each worker from `spec` alone; it also configures that process's storage.
        spec: plain data (JSON), for instance a resolved recipe.
        folder: of the run; on a cluster of several machines a URL or a path that all of them share.
        settings: the same that `build` will give to the job.
        warning: shown before the training starts; the record's notes repeat it.

    Raises:
        UserError: the folder or its checkpoints belong to another recipe; more workers than the cluster has CPUs, or,
            with `device: cuda`, than it has GPUs; the workers met a user's mistake or a loss that is no number; or more
            of them were lost than `max_failures`.
    """
    json.dumps(spec)  # only plain data may travel
    before = folder.open()
    if before is not None and folder.finished(before):
        say(f"run '{folder.name}' is finished: {folder.url} holds its prompts; nothing to do")
        return before
    checkpoints.refuse_others(folder.path(CHECKPOINTS), folder.recipe_hash)
    heard = len(before.notes) if before is not None else 0
    course = f"{counted(settings.epochs, 'epoch')} on {counted(settings.workers, 'worker')}"
    say(f"train: {settings.method}, {course if find_method(settings.method).Settings.data else 'which learns nothing'}")
    if warning is not None:
        say(f"warning: {warning}")
    with storage.lease(folder.url, "train") as hold, ray_session():
        scaling, session = _scaling(settings), current().under_lock(folder.url, hold.token)
        with _shown(folder, heard, scaling, warning), telling() as stop:
            _fit(build, {"spec": spec, "folder": folder, "session": session, "stop": stop}, scaling, settings)
            record = folder.record()
            assert record is not None, "the loop writes the record before anything else"
            if record.status == "failed":
                raise UserError(record.error or "training failed")
            assert record.status == "finished", record
            return record


def _scaling(settings: TrainingSettings) -> Any:
    """What each worker takes of the cluster; refused at once where it could never be had."""
    from ray.train import ScalingConfig

    there, everywhere = capacity(settings.label_selector), capacity()
    cpus, gpus = there["CPU"], there["GPU"]
    least = settings.min_workers or settings.workers
    key = "min_workers" if settings.min_workers else "workers"
    if least > cpus:
        raise UserError(
            f"training.{key} is {least}, but the cluster has {counted(int(cpus), 'CPU')}"
            f"{_where(settings.label_selector, cpus < everywhere['CPU'])}; use at most {counted(int(cpus), 'worker')}"
        )
    if settings.device == "cuda" and least > gpus:
        raise UserError(
            f"training.device is cuda with {counted(least, 'worker')}, but the cluster has {counted(int(gpus), 'GPU')}"
            + _where(settings.label_selector, gpus < everywhere["GPU"])
        )
    # Where it is unknown what the cluster may become, a GPU is waited for only if it was asked for.
    sure = least <= gpus < math.inf
    use_gpu = settings.device == "cuda" or (settings.device == "auto" and sure)
    return ScalingConfig(
        num_workers=(least, settings.workers) if settings.min_workers else settings.workers,
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": 1} | ({"GPU": 1} if use_gpu else {}),
        label_selector=settings.label_selector or None,
    )


def _lack(scaling: Any) -> str:
    """What keeps the workers from running, if the cluster as it stands has no room for them; "" where it has."""
    from ray.util import placement_group_table

    selector, takes = scaling.label_selector or {}, scaling.resources_per_worker
    workers = scaling.num_workers
    least, most = (workers, workers) if isinstance(workers, int) else workers
    room, everywhere = (
        min(int(there.get(name, 0) // each) for name, each in takes.items())
        for there in (current_resources(selector), current_resources({}))
    )
    if room < least:
        where = _where(selector, room < everywhere)
        return f"the cluster has room for {room} of {counted(least, 'worker')}{where}; training waits for machines"
    waiting = [list(one["bundles"].values()) for one in placement_group_table().values() if one["state"] == "PENDING"]
    if any(least <= len(asked) <= most and all(one == takes for one in asked) for asked in waiting):
        return f"the cluster is in use by others; training waits for room for {counted(least, 'worker')}"
    return ""


def _where(selector: Mapping[str, str], narrows: bool) -> str:
    """A label selector as part of a message, if it `narrows` what is there: " on nodes with gpu!=t4"."""
    terms = (f"{key}{'!=' if value[0] == '!' else '='}{value.removeprefix('!')}" for key, value in selector.items())
    return f" on nodes with {','.join(terms)} (training.label_selector)" if narrows else ""


def _fit(build: Build, config: dict[str, Any], scaling: Any, settings: TrainingSettings) -> None:
    from ray.train import FailureConfig, RunConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    folder: RunFolder = config["folder"]
    quiet()  # importing Ray Train resets its logger
    # Ray's own state is of no use to a loop that saves its own: a place that disappears keeps runs clean, and a run
    # on S3 needs no second S3 client. (Workers look at it only when they report checkpoints, which ours never do.)
    with scratch_folder() as state:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"build": build, **config},
            scaling_config=scaling,
            torch_config=_torch_config("nccl" if scaling.use_gpu else "gloo"),
            run_config=RunConfig(
                name=f"{folder.name}-{folder.recipe_hash[:12]}",
                storage_path=str(state),
                failure_config=FailureConfig(max_failures=settings.max_failures),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            mistake = _explanation(getattr(error, "worker_failures", {}), settings.max_failures)
            if mistake is None:
                raise
            raise mistake from error


def _torch_config(backend: str) -> Any:
    """Ray Train's, with workers that also stop where only they are told: on a machine that is about to go away."""
    from ray.train.torch import TorchConfig

    class Backend(TorchConfig().backend_cls):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_start(worker_group, backend_config)
            worker_group.execute(heed_sigterm)  # in their main threads; the loop runs in another

    class Config(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type:
            return Backend

    return Config(backend=backend)


def _worker(config: dict[str, Any]) -> None:
    """Train as one rank. A mistake that every rank knows of goes into the record, so that it isn't tried again."""
    import ray.train

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    folder: RunFolder = config["folder"]
    session: Session = config["session"]
    with session if rank == 0 else session.under_lock(folder.url, None):
        _train(config, folder, rank, world_size)


def _train(config: dict[str, Any], folder: RunFolder, rank: int, world_size: int) -> None:
    job: TrainJob | None = None
    try:
        if (failure := noted_failure(config["stop"])) is not None:
            raise OwnCodeError(failure)
        with distributed.agreed(world_size), own_code_reported():
            job = config["build"](config["spec"], rank, world_size)
        assert job is not None and job.run.url == folder.url, "a job is built for the folder of its run"
        with heeding(config["stop"]), own_code_reported():
            run(job, rank, world_size, TrainingGauges(folder.name, folder.url))
    except StoppedError:
        if not told(config["stop"]):  # another machine may take the place of the one that goes away
            raise
    except UserError as error:
        if debugging():
            traceback.print_exception(error)
        everywhere = world_size == 1 or job is None or isinstance(error, distributed.SharedError | DivergedError)
        if not everywhere:
            if isinstance(error, OwnCodeError):
                note_failure(config["stop"], str(error))
            raise
        if rank == 0:
            try:
                record = folder.open() or RunRecord(name=folder.name, recipe_hash=folder.recipe_hash)
                folder.write(record.model_copy(update={"status": "failed", "error": str(error)}))
            except UserError:  # no room even for that: then Ray reports it, after another try
                raise error from None


def _explanation(failures: Mapping[int, BaseException], max_failures: int) -> UserError | None:
    """One sentence for what ended a training on its workers, by rank; None for a defect."""
    from ray.exceptions import RayActorError

    causes = {rank: cause_of(failure) for rank, failure in failures.items()}
    for cause in causes.values():
        if isinstance(cause, UserError):
            return cause
    for rank, cause in sorted(causes.items()):  # the others report that they lost touch with it
        if isinstance(cause, LostLoaderError | StoppedError | RayActorError):
            what = "its process or its machine was lost" if isinstance(cause, RayActorError) else str(cause)
            return UserError(
                f"worker {rank}: {what}; that is once more than training.max_failures={max_failures} allows, but the "
                "same command goes on from the newest checkpoint"
            )
    return None


@contextlib.contextmanager
def _shown(folder: RunFolder, heard: int, scaling: Any, warning: str | None) -> Iterator[None]:
    """Progress, notes and a status file while the workers train, from what they write: their output stays there.

    Args:
        heard: notes of earlier starts, which are not repeated.
        scaling: what the workers take; where the cluster hasn't that, what they wait for is reported.
        warning: a note that was shown already.
    """
    from ray.exceptions import RayError

    status = TrainingStatus.begin()
    with keep_status_file(folder.path(STATUS), status, folder.owner), Progress(None, "steps", "train") as progress:

        def look_at_run() -> None:
            nonlocal heard
            with contextlib.suppress(OSError, UserError):
                record, line = folder.record(), last_line(folder.path(METRICS))
                if record is None:
                    return
                for note in record.notes[heard:]:
                    if note != warning:
                        say(note)
                heard = max(heard, len(record.notes))
                if line is not None:
                    loss = float(line["total"])
                    progress.total = record.total_steps
                    progress.update(max(0, line["step"] - progress.done), loss=loss)
                    status.count(line["step"], record.total_steps, loss)

        def look_at_cluster() -> None:
            before = status.waits
            with contextlib.suppress(RayError, ConnectionError, RuntimeError):  # the training itself reports it
                status.waits = _lack(scaling)
            if status.waits not in ("", before):
                say(status.waits)

        every = 1.0 if storage.is_local(folder.url) else 10.0
        try:
            with repeating(look_at_run, every), repeating(look_at_cluster, LOOK_SECONDS):
                yield
        finally:
            look_at_run()
