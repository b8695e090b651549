"""Experiment trackers: TensorBoard, MLflow and Weights & Biases, by their own libraries.

A server that is or becomes unavailable, and events that find a full disk, cause one warning; the run continues, and
`metrics.jsonl` has every number.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any, Protocol

from syncclip import storage
from syncclip.core.secrets import redacted, remember_tracker
from syncclip.core.settings import UserError
from syncclip.core.text import install_command
from syncclip.runtime.tempdirs import private_tempdir
from syncclip.training.run_folder import RunFolder
from syncclip.training.settings import TrainingSettings

MLFLOW_BATCH = 500
"""Metrics per request to MLflow, whose servers accept 1000."""

PATIENCE = 20
"""Timeout of a server's response, in seconds."""


class Tracker(Protocol):
    """One experiment tracker."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the scalars of a step."""

    def sync(self) -> None:
        """Send or write buffered scalars."""

    def close(self, finished: bool) -> None:
        """Send the rest, and whether the run is finished."""


class TensorBoard:
    """Event files beside the run's other files; copied at every `sync` if these are not local."""

    def __init__(self, folder: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # imported late: it takes seconds

        self._folder = folder
        self._resources = ExitStack()
        self._temporary = None if storage.is_local(folder) else self._resources.enter_context(private_tempdir())
        events = self._temporary or storage.local_path(folder)
        self._writer = SummaryWriter(str(events), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def sync(self) -> None:
        self._writer.flush()
        if self._temporary is not None:
            for path in self._temporary.iterdir():
                storage.publish(path, storage.join(self._folder, path.name))

    def close(self, finished: bool) -> None:  # noqa: ARG002
        self.sync()
        self._writer.close()
        self._resources.close()


class Mlflow:
    """A run on an MLflow server, which a resumed training and the evaluation continue."""

    def __init__(self, run: RunFolder, settings: TrainingSettings) -> None:
        # The default of seven retries with exponential backoff would block a training for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE))
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # no warnings about retries
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = settings.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            raise ValueError("set training.mlflow_uri or MLFLOW_TRACKING_URI")
        remember_tracker(uri)
        self._client = MlflowClient(uri)
        experiment = self._experiment(settings.tracking_project)
        identity = _identity(run)
        tags = {"syncclip.run": identity, "syncclip.folder": redacted(run.url), "syncclip.recipe": run.recipe_hash}
        existing = self._client.search_runs([experiment], f"tags.`syncclip.run` = '{identity}'")
        started = existing[0] if existing else self._client.create_run(experiment, tags=tags, run_name=run.name)
        self._run: str = started.info.run_id
        self._client.update_run(self._run, status="RUNNING")
        self._client.log_batch(self._run, params=[Param(key, str(value)) for key, value in _facts(settings).items()])
        self._buffer: list[Any] = []

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._buffer += [Metric(name, value, now, step) for name, value in values.items()]
        if len(self._buffer) >= MLFLOW_BATCH:
            self.sync()

    def sync(self) -> None:
        while self._buffer:
            self._client.log_batch(self._run, metrics=self._buffer[:MLFLOW_BATCH])
            del self._buffer[:MLFLOW_BATCH]

    def close(self, finished: bool) -> None:
        self.sync()
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        existing = self._client.get_experiment_by_name(name)
        if existing is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run may have created it meanwhile
                existing = self._client.get_experiment_by_name(name)
                if existing is None:
                    raise
        return str(existing.experiment_id)


class Wandb:
    """A run of Weights & Biases, in the mode and on the server set by its own variables (WANDB_MODE, ...)."""

    def __init__(self, run: RunFolder, settings: TrainingSettings) -> None:
        import wandb

        self._run = wandb.init(
            project=settings.tracking_project,
            id=_identity(run),
            name=run.name,
            resume="allow",
            reinit="create_new",
            config=_facts(settings),
            dir=str(storage.local_path(run.url)) if storage.is_local(run.url) else None,
            settings=wandb.Settings(silent=True, init_timeout=PATIENCE, console="off"),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def sync(self) -> None:
        """Nothing: W&B's own process sends continuously."""

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class Trackers:
    """All trackers of a run. A tracker that raises an error is reported once and not used again.

    Args:
        step: number of steps completed before.
        report: called with a warning.
    """

    def __init__(self, run: RunFolder, settings: TrainingSettings, step: int, report: Callable[[str], None]) -> None:
        self._report, self._run = report, run
        self._open: dict[str, Tracker] = {}
        factories: dict[str, Callable[[], Tracker]] = {
            "tensorboard": lambda: TensorBoard(run.url, step),
            "mlflow": lambda: Mlflow(run, settings),
            "wandb": lambda: Wandb(run, settings),
        }
        for name, create in factories.items():
            if name in settings.trackers:
                try:
                    self._open[name] = create()
                except ImportError as error:
                    missing = f"{name} is not installed ({error}) and receives nothing"
                    self._report(f"{missing}; run `{install_command('tracking')}`")
                except Exception as error:  # a tracker's failure must not end the training
                    self._warn(name, error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add the scalars of a step."""
        self._each(lambda tracker: tracker.write(step, values))

    def sync(self) -> None:
        """Send or write buffered scalars."""
        self._each(lambda tracker: tracker.sync())

    def close(self, finished: bool) -> None:
        """Close all trackers."""
        self._each(lambda tracker: tracker.close(finished))
        self._open.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                call(tracker)
            except Exception as error:  # noqa: PERF203  errors are per tracker
                if name == "tensorboard" and not isinstance(error, OSError | UserError):
                    raise  # not a full disk but a defect, or a signal handler's error about a lost loader process
                del self._open[name]
                self._warn(name, error)

    def _warn(self, name: str, error: Exception) -> None:
        with suppress(OSError):  # remove the empty folder of a library that failed to start
            if storage.is_local(self._run.url):
                storage.local_path(self._run.path(name)).rmdir()
        reason = redacted(str(error).strip() or type(error).__name__).partition("\n")[0][:200]
        trouble = "can't be written to" if name == "tensorboard" else "can't be reached"
        self._report(f"{name} {trouble} ({reason}); the run continues without it, metrics.jsonl has its numbers")


def show_results(
    run: RunFolder, settings: TrainingSettings, numbers: Mapping[str, Any], report: Callable[[str], None]
) -> None:
    """Add a finished run's results to MLflow and W&B. Warnings that are in the record's notes are not repeated.

    Args:
        numbers: from `evaluation.results`, with their split.
        report: called with a warning.
    """
    names = tuple(name for name in settings.trackers if name != "tensorboard")
    if not names:
        return
    record = run.record()
    reported = {note.partition(" (")[0] for note in record.notes} if record is not None else set()

    def report_new(sentence: str) -> None:
        if sentence.partition(" (")[0] not in reported:
            report(sentence)

    trackers = Trackers(run, settings.model_copy(update={"trackers": names}), 0, report_new)
    scores = {f"{numbers['split']}/{key}": value for key, value in numbers.items() if isinstance(value, float)}
    trackers.write(record.total_steps if record is not None else 0, scores)
    trackers.close(finished=True)


def _identity(run: RunFolder) -> str:
    """An id that is stable across restarts and unique to the folder."""
    return hashlib.sha256(f"{run.url}\n{run.recipe_hash}".encode()).hexdigest()[:16]


def _facts(settings: TrainingSettings) -> dict[str, Any]:
    """Settings by which runs can be sorted."""
    keys = ("method", "data", "images_per_class", "seed", "epochs", "batch_size")
    return {key: getattr(settings, key) for key in keys}
