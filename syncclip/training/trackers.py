"""Experiment trackers: TensorBoard, MLflow and Weights & Biases.

If a tracker fails, for example because its server is unavailable or the disk is full, the failure is reported once, and
the run continues without the tracker. All values are also written to `metrics.jsonl`.
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
from syncclip.evaluation.baselines import BASELINES
from syncclip.runtime.tempdirs import private_tempdir
from syncclip.training.run_folder import RunFolder
from syncclip.training.settings import TrainingSettings

MLFLOW_BATCH = 500
"""Number of metrics per MLflow request; MLflow servers accept up to 1000."""

TIMEOUT_SECONDS = 20


class Tracker(Protocol):
    """An experiment tracker."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log scalars for a step."""

    def sync(self) -> None:
        """Write or send all buffered scalars."""

    def close(self, finished: bool) -> None:
        """Write or send all buffered scalars, and set the final status of the run."""


class TensorBoard:
    """TensorBoard event files in the run folder. In remote folders, the files are replaced at every `sync`."""

    def __init__(self, folder: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

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
    """A run on an MLflow server. Resumed training and evaluation log to the same run."""

    def __init__(self, run: RunFolder, settings: TrainingSettings) -> None:
        # The default of seven retries with exponential backoff would block training for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(TIMEOUT_SECONDS))
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # suppress warnings about retries
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        uri = settings.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            raise ValueError("the server URI is missing; set training.mlflow_uri or MLFLOW_TRACKING_URI")
        remember_tracker(uri)
        self._client = client = MlflowClient(uri)
        if client.get_experiment_by_name(settings.tracking_project) is None:
            with suppress(MlflowException):  # another run created it in the meantime
                client.create_experiment(settings.tracking_project)
        experiment = client.get_experiment_by_name(settings.tracking_project).experiment_id
        identity = _identity(run)
        tags = {"syncclip.run": identity, "syncclip.folder": redacted(run.url), "syncclip.recipe": run.recipe_hash}
        existing = client.search_runs([experiment], f"tags.`syncclip.run` = '{identity}'")
        started = existing[0] if existing else client.create_run(experiment, tags=tags, run_name=run.name)
        self._run: str = started.info.run_id
        client.update_run(self._run, status="RUNNING")
        client.log_batch(self._run, params=[Param(key, str(value)) for key, value in _params(settings).items()])
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


class Wandb:
    """A Weights & Biases run, configured by W&B environment variables such as WANDB_MODE."""

    def __init__(self, run: RunFolder, settings: TrainingSettings) -> None:
        import wandb

        self._run = wandb.init(
            project=settings.tracking_project,
            id=_identity(run),
            name=run.name,
            resume="allow",
            reinit="create_new",
            config=_params(settings),
            dir=str(storage.local_path(run.url)) if storage.is_local(run.url) else None,
            settings=wandb.Settings(silent=True, init_timeout=TIMEOUT_SECONDS, console="off"),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def sync(self) -> None:
        """Do nothing, because the W&B process sends scalars continuously."""

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class Trackers:
    """A run's trackers; a tracker that raises an error is reported once and removed.

    Args:
        step: number of steps completed in earlier attempts.
        report: callback for warnings.
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
                    command = install_command("tracking")
                    self._report(f"{name} is not installed ({error}) and receives no metrics; run `{command}`")
                except Exception as error:  # a tracker must not stop the training
                    self._warn(name, error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log scalars for a step."""
        self._each(lambda tracker: tracker.write(step, values))

    def sync(self) -> None:
        """Write or send all buffered scalars."""
        self._each(lambda tracker: tracker.sync())

    def close(self, finished: bool) -> None:
        """Close all trackers, and set the final status of the run."""
        self._each(lambda tracker: tracker.close(finished))
        self._open.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                call(tracker)
            except Exception as error:  # noqa: PERF203  the other trackers continue
                if name == "tensorboard" and not isinstance(error, OSError | UserError):
                    raise  # a bug, or the signal handler's error about a killed loader process
                del self._open[name]
                self._warn(name, error)

    def _warn(self, name: str, error: Exception) -> None:
        with suppress(OSError):  # remove the empty folder of a library that failed to start
            if storage.is_local(self._run.url):
                storage.local_path(self._run.path(name)).rmdir()
        reason = redacted(str(error).strip() or type(error).__name__).partition("\n")[0][:200]
        problem = "can't be written to" if name == "tensorboard" else "can't be reached"
        self._report(
            f"{name} {problem} ({reason}); the run continues without it, and metrics.jsonl contains all values"
        )


def show_results(
    run: RunFolder, settings: TrainingSettings, numbers: Mapping[str, Any], report: Callable[[str], None]
) -> None:
    """Log the results of a finished run to MLflow and W&B. Warnings already in the record's notes are not repeated.

    Args:
        numbers: metrics from `evaluation.results` and the evaluated split.
        report: callback for warnings.
    """
    names = tuple(name for name in settings.trackers if name != "tensorboard")
    record = run.record()
    if not names or record is None:
        return
    reported = {note.partition(" (")[0] for note in record.notes}

    def report_new(warning: str) -> None:
        if warning.partition(" (")[0] not in reported:
            report(warning)

    trackers = Trackers(run, settings.model_copy(update={"trackers": names}), 0, report_new)
    groups = {"": numbers, **{f"{name}_": scores for name, scores in numbers[BASELINES].items()}}
    scores = {
        f"{numbers['split']}/{prefix}{key}": value
        for prefix, of_group in groups.items()
        for key, value in of_group.items()
        if isinstance(value, float)
    }
    trackers.write(record.total_steps, scores)
    trackers.close(finished=True)


def _identity(run: RunFolder) -> str:
    """Return the run's tracker ID, which is stable across restarts and unique to the folder."""
    return hashlib.sha256(f"{run.url}\n{run.recipe_hash}".encode()).hexdigest()[:16]


def _params(settings: TrainingSettings) -> dict[str, Any]:
    """Return the settings that can be used to filter runs in a tracker."""
    keys = ("method", "data", "images_per_class", "seed", "epochs", "batch_size")
    return {key: getattr(settings, key) for key in keys}
