"""Where a run's numbers are shown while it goes on: TensorBoard, MLflow and Weights & Biases by their own libraries.

A server that is absent, or goes away, costs one warning, and so do events that find no room: the run goes on, and
`metrics.jsonl` has every number anyway.
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
from syncclip.runtime.tempdirs import scratch_folder
from syncclip.training.run_folder import RunFolder
from syncclip.training.settings import TrainingSettings

AT_ONCE = 500
"""Numbers that are sent to MLflow in one request; a server takes 1000."""

PATIENCE = 20
"""Seconds that a server has to answer."""


class Tracker(Protocol):
    """One place that shows numbers."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take in scalars of a step."""

    def sync(self) -> None:
        """Send what is buffered."""

    def close(self, finished: bool) -> None:
        """Send the rest, and whether the run is finished."""


class TensorBoard:
    """Events beside the run's other files: the losses, the rate and, since it may differ from run to run, the speed.

    Elsewhere than on a local disk the events are written to a temporary folder and copied at every `sync`.
    """

    def __init__(self, folder: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds to import, and only the first rank needs it

        self._folder = folder
        self._scratch = ExitStack()
        self._temporary = None if storage.is_local(folder) else self._scratch.enter_context(scratch_folder())
        where = self._temporary or storage.local_path(folder)
        self._writer = SummaryWriter(str(where), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def sync(self) -> None:
        """Write out what is buffered."""
        self._writer.flush()
        if self._temporary is not None:
            for path in self._temporary.iterdir():
                storage.publish(path, storage.join(self._folder, path.name))

    def close(self, finished: bool) -> None:  # noqa: ARG002
        """Write out the rest and end the writer's thread."""
        self.sync()
        self._writer.close()
        self._scratch.close()


class Mlflow:
    """A run of an MLflow server; a training that goes on, and its evaluation, go on with the same one."""

    def __init__(self, run: RunFolder, settings: TrainingSettings) -> None:
        # By default seven tries with growing pauses: minutes in which a training would stand still.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE))
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a try that failed is no news
        from mlflow import MlflowClient
        from mlflow.entities import Param

        place = settings.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:
            raise ValueError("name its server by training.mlflow_uri or MLFLOW_TRACKING_URI")
        remember_tracker(place)
        self._client = MlflowClient(place)
        experiment = self._experiment(settings.tracking_project)
        tags = {
            "syncclip.run": _identity(run),
            "syncclip.folder": redacted(run.url),
            "syncclip.recipe": run.recipe_hash,
        }
        found = self._client.search_runs([experiment], f"tags.`syncclip.run` = '{tags['syncclip.run']}'")
        self._run: str = (
            found[0] if found else self._client.create_run(experiment, tags=tags, run_name=run.name)
        ).info.run_id
        self._client.update_run(self._run, status="RUNNING")
        self._client.log_batch(self._run, params=[Param(key, str(value)) for key, value in _facts(settings).items()])
        self._waiting: list[Any] = []

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._waiting += [Metric(name, value, now, step) for name, value in values.items()]
        if len(self._waiting) >= AT_ONCE:
            self.sync()

    def sync(self) -> None:
        while self._waiting:
            self._client.log_batch(self._run, metrics=self._waiting[:AT_ONCE])
            del self._waiting[:AT_ONCE]

    def close(self, finished: bool) -> None:
        self.sync()
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run was faster
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)


class Wandb:
    """A run of Weights & Biases, in the mode and at the server that its own variables (WANDB_MODE, ...) name."""

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
        """Nothing: its own process sends all the time."""

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class Trackers:
    """All trackers of a run. An error of one of them is reported once, and that one is not used any more.

    Args:
        step: how many steps were made before.
        report: takes the sentence of a warning.
    """

    def __init__(self, run: RunFolder, settings: TrainingSettings, step: int, report: Callable[[str], None]) -> None:
        self._report, self._run = report, run
        self._open: dict[str, Tracker] = {}
        makers: dict[str, Callable[[], Tracker]] = {
            "tensorboard": lambda: TensorBoard(run.url, step),
            "mlflow": lambda: Mlflow(run, settings),
            "wandb": lambda: Wandb(run, settings),
        }
        for name, make in makers.items():
            if name in settings.trackers:
                try:
                    self._open[name] = make()
                except ImportError as error:
                    missing = f"{name} is not installed ({error}), so nothing is shown there"
                    self._report(f"{missing}; run `{install_command('tracking')}`")
                except Exception as error:  # whatever a library raises, a training is worth more than its display
                    self._warn(name, error)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Show scalars of a step."""
        self._each(lambda tracker: tracker.write(step, values))

    def sync(self) -> None:
        """Make durable, or send, what is buffered."""
        self._each(lambda tracker: tracker.sync())

    def close(self, finished: bool) -> None:
        """Let go of all of them."""
        self._each(lambda tracker: tracker.close(finished))
        self._open.clear()

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                do(tracker)
            except Exception as error:  # noqa: PERF203  each one by itself
                if name == "tensorboard" and not isinstance(error, OSError | UserError):
                    raise  # no lack of room: a defect, or a signal handler's error about a lost loader process
                del self._open[name]
                self._warn(name, error)

    def _warn(self, name: str, error: Exception) -> None:
        with suppress(OSError):  # what a library has made for itself before it failed, if it's empty
            if storage.is_local(self._run.url):
                storage.local_path(self._run.path(name)).rmdir()
        reason = redacted(str(error).strip() or type(error).__name__).partition("\n")[0][:200]
        trouble = "can't be written to" if name == "tensorboard" else "can't be reached"
        self._report(f"{name} {trouble} ({reason}); the run goes on without it, metrics.jsonl has its numbers")


def show_results(
    run: RunFolder, settings: TrainingSettings, numbers: Mapping[str, Any], report: Callable[[str], None]
) -> None:
    """Show a finished run's results in those trackers that compare runs, beside what its training showed there.

    A warning of the training about an absent server is not repeated: the record's notes have it.

    Args:
        numbers: from `evaluation.results`, with the split that they are of.
        report: takes the sentence of a warning.
    """
    named = tuple(name for name in settings.trackers if name != "tensorboard")
    if not named:
        return
    record = run.record()
    known = {_trouble(note) for note in record.notes} if record is not None else set()

    def report_news(sentence: str) -> None:
        if _trouble(sentence) not in known:
            report(sentence)

    trackers = Trackers(run, settings.model_copy(update={"trackers": named}), 0, report_news)
    scores = {f"{numbers['split']}/{key}": value for key, value in numbers.items() if isinstance(value, float)}
    trackers.write(record.total_steps if record is not None else 0, scores)
    trackers.close(finished=True)


def _trouble(sentence: str) -> str:
    """What a warning is about, without its reason."""
    return sentence.partition(" (")[0]


def _identity(run: RunFolder) -> str:
    """What a run is called where many are shown: the same after a restart, another in another folder."""
    return hashlib.sha256(f"{run.url}\n{run.recipe_hash}".encode()).hexdigest()[:16]


def _facts(settings: TrainingSettings) -> dict[str, Any]:
    """Settings by which runs can be sorted."""
    keys = ("method", "data", "images_per_class", "seed", "epochs", "batch_size")
    return {key: getattr(settings, key) for key in keys}
