"""Run the training loop with Ray Train on one or more workers; if a worker is lost, all workers restart."""

from __future__ import annotations

import contextlib
import json
import math
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from syncclip import storage
from syncclip.core.custom_code import CustomCodeError, custom_code_reported
from syncclip.core.labels import terms
from syncclip.core.session import Session, current
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.runtime import shutdown
from syncclip.runtime.heartbeat import repeating
from syncclip.runtime.job_signals import (
    job_signals,
    observing_stop,
    record_failure,
    recorded_failure,
)
from syncclip.runtime.progress import Progress, print_message
from syncclip.runtime.ray_session import (
    capacity,
    cluster_address,
    current_resources,
    debugging,
    local_cpus,
    quiet,
    ray_session,
    require_nodes,
    stop_on_sigterm,
    unwrapped,
)
from syncclip.runtime.tempdirs import private_tempdir
from syncclip.storage.status_file import keep_status_file
from syncclip.stream.loader import LostLoaderError
from syncclip.training import checkpoints, distributed
from syncclip.training.loop import DivergedError, StoppedError, TrainJob, run
from syncclip.training.run_folder import CHECKPOINTS, METRICS, RunFolder, RunRecord, last_line
from syncclip.training.settings import TrainingSettings
from syncclip.training.status import STATUS, TrainingGauges, TrainingStatus

Build = Callable[[dict[str, Any], int, int], TrainJob]
"""Function (spec, rank, world size) that returns the rank's job; workers must be able to import the function's
module."""

RESIZE_SECONDS = 30.0
"""Interval in seconds at which elastic training checks whether it can add workers; all workers restart when their
number changes."""

CHECK_SECONDS = 10.0
"""Interval in seconds at which training checks whether the cluster has resources for the workers."""


def check_cpus(training: TrainingSettings) -> None:
    """Raise a UserError if training would start a local Ray cluster with fewer CPUs than workers."""
    import ray

    workers, cpus = training.min_workers or training.workers, local_cpus()
    if workers > cpus and cluster_address() is None and not ray.is_initialized():
        raise UserError(
            f"training.workers is {workers}, but this machine has {counted(cpus, 'CPU')}; use at most "
            f"{counted(cpus, 'worker')}, or set RAY_ADDRESS to a cluster's address"
        )


def train_on_ray(
    build: Build,
    spec: dict[str, Any],
    folder: RunFolder,
    settings: TrainingSettings,
    warning: str | None = None,
    steps: bool = True,
) -> RunRecord:
    """Run the training loop on `settings.workers` workers of the current Ray cluster or a local cluster.

    If a worker or node is lost, all workers restart from the newest checkpoint, up to `max_failures` times. If a node
    receives a preemption notice or SIGTERM, they restart from a new checkpoint, any number of times. If the driver is
    killed, repeat the call to resume the run; the number of workers may change. With `min_workers`, the number of
    workers adapts to the cluster's resources. For a finished run, the call returns immediately without starting Ray.

    Args:
        build: function that builds the job from `spec` on each worker and configures storage in the worker process.
        spec: JSON-serialisable data, such as a resolved recipe.
        folder: run folder; several machines require a URL or a shared path.
        settings: training settings of the job returned by `build`.
        warning: message printed before training starts, also stored in the record's notes.
        steps: whether the method has training steps.

    Raises:
        UserError: the folder or its checkpoints belong to a different recipe; the cluster has fewer CPUs (or, with
            `device: cuda`, GPUs) than workers; a worker raised a user error or diverged; or workers were lost more than
            `max_failures` times.
    """
    json.dumps(spec)  # raises an error if `spec` is not plain data
    before = folder.open()
    if before is not None and folder.finished(before):
        print_message(f"run '{folder.name}' is already finished; the prompts are in {folder.url}")
        return before
    checkpoints.check_recipe(folder.path(CHECKPOINTS), folder.recipe_hash)
    reported = len(before.notes) if before is not None else 0
    epochs = counted(settings.epochs, "epoch") if steps else "no training steps"
    print_message(f"train: {settings.method}, {epochs} on {counted(settings.workers, 'worker')}")
    if warning is not None:
        print_message(f"warning: {warning}")
    progress = Progress(None, "steps", "train", phase="starting Ray")
    with storage.lock(folder.url, "train") as hold, progress, ray_session():
        scaling, session = _scaling(settings), current().under_lock(folder.url, hold.token)
        progress.begin("loading CLIP weights and training images")
        with _shown(folder, progress, reported, scaling, warning), job_signals() as signals:
            config = {"spec": spec, "folder": folder, "session": session, "signals": signals}
            while True:
                _fit(build, config, scaling, settings)
                record = folder.record()
                assert record is not None
                if record.status in ("finished", "failed") or shutdown.requested():
                    break
                print_message("a worker's machine is being preempted or stopped; all workers restart")
            if record.status == "failed":
                raise UserError(record.error or "training failed")
            assert record.status == "finished", record
            return record


def _scaling(settings: TrainingSettings) -> Any:
    """Return the workers' resources; raise a UserError if the cluster lacks these resources."""
    from ray.train import ScalingConfig

    require_nodes(settings.label_selector, "training.label_selector")
    selected, everywhere = capacity(settings.label_selector), capacity()
    cpus, gpus = selected["CPU"], selected["GPU"]
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
            f"{_where(settings.label_selector, gpus < everywhere['GPU'])}; use fewer workers or training.device=auto"
        )
    # On an autoscaling cluster of unknown size, GPUs are used only if they were requested.
    available = least <= gpus < math.inf
    use_gpu = settings.device == "cuda" or (settings.device == "auto" and available)
    return ScalingConfig(
        num_workers=(least, settings.workers) if settings.min_workers else settings.workers,
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": 1} | ({"GPU": 1} if use_gpu else {}),
        label_selector=settings.label_selector or None,
    )


def _lack(scaling: Any) -> str:
    """Return the reason why workers are waiting for cluster resources, or "" if no workers are waiting."""
    from ray.util import placement_group_table

    selector, required = scaling.label_selector or {}, scaling.resources_per_worker
    workers = scaling.num_workers
    least, most = (workers, workers) if isinstance(workers, int) else workers
    room, everywhere = (
        min(int(resources.get(name, 0) // amount) for name, amount in required.items())
        for resources in (current_resources(selector), current_resources({}))
    )
    if room < least:
        where = _where(selector, room < everywhere)
        return f"the cluster has room for {room} of {counted(least, 'worker')}{where}; training is waiting for machines"
    groups = [group for group in placement_group_table().values() if group["state"] == "PENDING"]
    pending = [list(group["bundles"].values()) for group in groups]
    if any(least <= len(bundles) <= most and all(each == required for each in bundles) for bundles in pending):
        return f"other jobs are using the cluster; training is waiting for resources for {counted(least, 'worker')}"
    return ""


def _where(selector: Mapping[str, str], narrows: bool) -> str:
    """Return the nodes that a label selector allows, for a message, or "" if it excludes no nodes."""
    return f" on nodes with {terms(selector)} (training.label_selector)" if narrows else ""


def _fit(build: Build, config: dict[str, Any], scaling: Any, settings: TrainingSettings) -> None:
    from ray.train import FailureConfig, RunConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    folder: RunFolder = config["folder"]
    quiet()  # importing Ray Train resets its logger
    # The loop writes its own checkpoints, so the state of Ray Train is temporary; workers don't use it.
    with private_tempdir() as state:
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
            explanation = _explanation(getattr(error, "worker_failures", {}), settings.max_failures)
            if explanation is None:
                raise
            raise explanation from error


def _torch_config(backend: str) -> Any:
    """Return a TorchConfig for Ray Train whose workers stop on SIGTERM, for example when a machine is preempted."""
    from ray.train.torch import TorchConfig

    class Backend(TorchConfig().backend_cls):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_start(worker_group, backend_config)
            worker_group.execute(stop_on_sigterm)  # in the main threads; the loop runs in other threads

    class Config(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type:
            return Backend

    return Config(backend=backend)


def _worker(config: dict[str, Any]) -> None:
    """Train as one rank. A user error shared by all ranks is recorded instead of raised, so Ray does not retry."""
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
        if (failure := recorded_failure(config["signals"])) is not None:
            raise CustomCodeError(failure)
        with distributed.agreed(world_size), custom_code_reported():
            job = config["build"](config["spec"], rank, world_size)
        assert job is not None and job.run.url == folder.url
        with observing_stop(config["signals"]), custom_code_reported():
            run(job, rank, world_size, TrainingGauges(folder.name, folder.url), _preempted)
    except StoppedError:
        pass  # on all ranks; unless the driver has stopped the job, it starts new workers
    except UserError as error:
        if debugging():
            traceback.print_exception(error)
        everywhere = world_size == 1 or job is None or isinstance(error, distributed.SharedError | DivergedError)
        if not everywhere:
            if isinstance(error, CustomCodeError):
                record_failure(config["signals"], str(error))
            raise
        if rank == 0:
            try:
                record = folder.open() or RunRecord(name=folder.name, recipe_hash=folder.recipe_hash)
                folder.write(record.model_copy(update={"status": "failed", "error": str(error)}))
            except UserError:  # the disk is full; Ray retries and reports the error
                raise error from None


def _preempted() -> bool:
    """Return whether Ray has announced that a worker's node will be lost; all workers must call this together."""
    import ray.train
    from ray.exceptions import RayError

    preemption_info = getattr(ray.train, "get_preemption_info", lambda: None)  # requires Ray 2.60
    with contextlib.suppress(RayError):  # the actor that synchronises the workers is lost
        return preemption_info() is not None
    return False


def _explanation(failures: Mapping[int, BaseException], max_failures: int) -> UserError | None:
    """Return a user error that describes the workers' failures (by rank), or None if they indicate a bug."""
    from ray.exceptions import RayActorError

    causes = {rank: unwrapped(failure) for rank, failure in failures.items()}
    for cause in causes.values():
        if isinstance(cause, UserError):
            return cause
    for rank, cause in sorted(causes.items()):  # other ranks only report a lost connection
        if isinstance(cause, LostLoaderError | RayActorError):
            what = "its process or machine was lost" if isinstance(cause, RayActorError) else str(cause)
            return UserError(
                f"worker {rank}: {what}; no restarts are left (training.max_failures={max_failures}); run the same "
                "command to resume from the newest checkpoint"
            )
    return None


@contextlib.contextmanager
def _shown(folder: RunFolder, progress: Progress, reported: int, scaling: Any, warning: str | None) -> Iterator[None]:
    """While the workers train, show progress and notes from the run's files, and keep the status file up to date.

    Args:
        reported: number of notes from earlier attempts, which are not printed again.
        scaling: the workers' resources; a message is printed if the cluster lacks them.
        warning: note that has already been printed.
    """
    from ray.exceptions import RayError

    status = TrainingStatus.begin()
    with keep_status_file(folder.path(STATUS), status, folder.owner):

        def update() -> None:
            nonlocal reported
            with contextlib.suppress(OSError, UserError):
                record, line = folder.record(), last_line(folder.path(METRICS))
                if record is None:
                    return
                for note in record.notes[reported:]:
                    if note != warning:
                        print_message(note)
                reported = max(reported, len(record.notes))
                if line is not None:
                    loss = float(line["total"])
                    progress.total = record.total_steps
                    progress.update(max(0, line["step"] - progress.done), loss=loss)
                    status.count(line["step"], record.total_steps, loss)

        def check_cluster() -> None:
            before = status.waits
            with contextlib.suppress(RayError, ConnectionError, RuntimeError):  # reported by the training itself
                status.waits = _lack(scaling)
            if status.waits not in ("", before):
                print_message(status.waits)

        every = 1.0 if storage.is_local(folder.url) else 10.0
        try:
            with repeating(update, every), repeating(check_cluster, CHECK_SECONDS):
                yield
        finally:
            update()
