"""Training runs of a study, executed as independent, resumable Ray tasks."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from syncclip import jobs, storage
from syncclip.core.custom_code import custom_code_error
from syncclip.core.secrets import redacted
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.core.text import duration
from syncclip.evaluation.predict import RESULTS, read_results
from syncclip.recipe.recipe import Recipe
from syncclip.recipe.study import Configuration, StudySettings
from syncclip.runs import evaluate as scoring
from syncclip.runs.build import ModelCache
from syncclip.runs.data import SetCache
from syncclip.runs.resolve import from_spec, resolve_run, to_spec
from syncclip.runtime.job_signals import job_signals, observing_stop
from syncclip.runtime.progress import Progress, print_message
from syncclip.runtime.ray_session import capacity, debugging, ray_session, unwrapped
from syncclip.runtime.shutdown import requested
from syncclip.storage.status_file import keep_status_file
from syncclip.studies.grid import Cell
from syncclip.studies.outputs import CELLS, Status, read_json, write_json
from syncclip.studies.status import PROGRESS, StudyStatus
from syncclip.training.loop import StoppedError
from syncclip.training.run_folder import RunFolder

TIMING = "cell.json"
"""File in a run folder that contains the run's duration in seconds, summed over all attempts."""

MAX_CELLS = 256
"""Maximum number of concurrently submitted runs, even on an autoscaling cluster."""

LOCK_TIMEOUT_SECONDS = 60.0
"""Maximum wait in seconds for a process that holds the run's lock, such as a worker left over from a killed study."""

POLL_SECONDS = 2.0
"""Interval in seconds between updates of the progress line."""


@dataclass(frozen=True)
class CellRun:
    """A training run in the grid, with its recipe, folder and status."""

    cell: Cell
    recipe: Recipe
    folder: RunFolder
    status: Status = "waiting"
    error: str | None = None

    @property
    def url(self) -> str:
        """URL of the run folder."""
        return self.folder.url

    @property
    def spec(self) -> dict[str, Any]:
        """Serialisable description from which `run_cell` restores the run."""
        return to_spec(self.recipe, self.folder)

    @property
    def seconds(self) -> float | None:
        """Duration of the run in seconds, or None if unknown; a message is printed if `TIMING` was removed."""
        seconds = _seconds_of(self.folder)
        if seconds is None and self.status == "done" and TIMING in (storage.read_contents(self.url) or ()):
            print_message(f"{self.folder.path(TIMING)} is missing; the study's cost excludes this run")
        return seconds

    @property
    def results(self) -> dict[str, Any]:
        """Results of a finished run."""
        return read_results(storage.join(self.url, RESULTS), self.folder.owner)


def by_domain(runs: Iterable[CellRun]) -> list[CellRun]:
    """Return the runs, each followed by one entry per additional test domain, with the domain's results folder."""
    return [
        run
        if domain is None
        else replace(
            run,
            cell=replace(run.cell, configuration=configuration),
            folder=scoring.domain_folder(run.folder, domain),
        )
        for run in runs
        for domain, configuration in run.cell.configuration.evaluated.items()
    ]


def cell_recipe(recipe: Recipe, cell: Cell, synthetic: str | None) -> Recipe:
    """Derive the recipe of a single-worker training run from the study's recipe.

    Args:
        synthetic: URL of the synthetic dataset; None if the study uses no synthetic images.
    """
    configuration = cell.configuration
    values: dict[str, Any] = {
        "training.method": configuration.method,
        "training.data": configuration.data,
        "training.workers": 1,
        "training.synthetic": synthetic if configuration.synthetic else None,
        "training.images_per_class": cell.images_per_class,
        "evaluation.test_domains": configuration.test_domains,
    }
    if cell.seed is not None:
        values["training.seed"] = cell.seed
    return recipe.with_values({**values, **configuration.overrides}, _origin(recipe, configuration))


def _origin(recipe: Recipe, configuration: Configuration) -> str:
    """Return the prefix of error messages about a configuration: the recipe, the key and the configuration's name."""
    number = [each.name for each in recipe.study.configurations].index(configuration.name)
    return f"recipe {recipe.name!r}: study.configurations[{number}] {configuration.name!r}"


def check_configurations(recipe: Recipe) -> None:
    """Check each configuration and each value of its search space before images are generated.

    Raises:
        UserError: a method, key or value is invalid, or a configuration has none of the study's numbers of
            images.
    """
    amounts = recipe.study.amounts
    if recipe.evaluation.test_domains:
        raise UserError(
            f"recipe {recipe.name!r}: a study does not support evaluation.test_domains; set test_domains for each "
            "configuration in study.configurations instead"
        )
    for configuration in recipe.study.configurations:
        if "evaluation.test_domains" in configuration.overrides:
            raise UserError(
                f"{_origin(recipe, configuration)}: overrides sets evaluation.test_domains; set the configuration's "
                "test_domains instead"
            )
        if configuration.synthetic and not configuration.at(amounts):
            raise UserError(
                f"{_origin(recipe, configuration)}: images_per_class {configuration.images_per_class} contains none of "
                f"the numbers in study.images_per_class {amounts}; add one of them"
            )
        if recipe.study.pretrained and "backbone.pretrained" in configuration.overrides:
            raise UserError(
                f"{_origin(recipe, configuration)}: overrides sets backbone.pretrained, which study.pretrained varies; "
                "remove one of them"
            )
        for values in [{}, *({key: value} for key, tried in configuration.search_space.items() for value in tried)]:
            changed = configuration.model_copy(update={"overrides": {**configuration.overrides, **values}})
            cell_recipe(recipe, Cell(changed, None, None), None)


def prepare(recipe: Recipe, cells: Sequence[Cell], out: str, synthetic: str | None) -> list[CellRun]:
    """Resolve the recipe of each run and determine which runs are finished, without writing files.

    Raises:
        UserError: a run folder contains a run with a different recipe or synthetic dataset.
    """
    runs, sets = [], SetCache()  # the synthetic dataset is read once
    for cell in cells:
        url = storage.join(out, CELLS, cell.name)
        resolved, folder = resolve_run(cell_recipe(recipe, cell, synthetic), url, sets)
        runs.append(CellRun(cell, resolved, folder, "done" if scoring.done(resolved, folder) else "waiting"))
    return runs


def run_cell(spec: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate one run in this process, as the body of a Ray task.

    Args:
        spec: see `CellRun.spec`.

    Returns:
        `seconds`: duration; `error`: message, or None if the run succeeded; `stopped`: whether the driver stopped the
        run.
    """
    start = time.monotonic()
    error, stopped = None, False
    with spec.get("session", current()):
        try:
            recipe, folder = from_spec(spec)
            with storage.lock(folder.url, "study", patience=LOCK_TIMEOUT_SECONDS):
                try:
                    with observing_stop(spec.get("signals")):
                        jobs.run_resolved(recipe, folder, _model_cache(recipe.study.keep_images))
                except StoppedError:
                    stopped = True
                seconds = (_seconds_of(folder) or 0.0) + time.monotonic() - start
                write_json(folder.path(TIMING), {"seconds": round(seconds, 3)}, folder.owner)
                storage.write_contents(folder.url, folder.owner)
        except Exception as exception:
            if debugging():
                raise
            error = _sentence(exception)
    return {"seconds": time.monotonic() - start, "error": error, "stopped": stopped}


def _seconds_of(folder: RunFolder) -> float | None:
    if not storage.exists(path := folder.path(TIMING)):
        return None
    seconds = read_json(path, folder.owner).get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


@functools.lru_cache(maxsize=1)
def _model_cache(keep_bytes: int) -> ModelCache:
    """Return the cache of this worker process, which executes its runs sequentially."""
    return ModelCache(keep_bytes)


def run_cells(
    runs: Sequence[CellRun],
    settings: StudySettings,
    label: str = "study",
    task: Callable[[dict[str, Any]], dict[str, Any]] = run_cell,
    out: str | None = None,
    owner: str = storage.NOBODY,
) -> tuple[list[CellRun], StudyStatus]:
    """Execute the pending runs on Ray in the given order, with as much parallelism as the cluster permits.

    A failed run does not stop the others. A run whose process or machine is lost restarts from its newest checkpoint,
    up to `settings.retries` times.

    Args:
        runs: result of `prepare`.
        label: label of the progress line.
        task: function that executes a run, with the signature of `run_cell`.
        out: folder for the status file; None: write no status file.
        owner: ID of the study.

    Returns:
        The runs in the given order with their new status, and the study's status at the end of this call.

    Raises:
        UserError: the cluster has too few CPUs or GPUs for a single run.
    """
    waiting = [run for run in runs if run.status == "waiting"]
    done = sum(run.status == "done" for run in runs)
    if not waiting:
        return list(runs), StudyStatus.begin(cells=len(runs), done=done)
    outcomes: dict[str, CellRun] = {}
    names = _unique_names(runs)
    line = Progress(len(runs), "runs", label, done=done, phase="starting Ray")
    with line as progress, ray_session(), ExitStack() as stack:
        slots = _slots(settings, waiting[0].recipe.training.label_selector, first=True)
        status = StudyStatus.begin(cells=len(runs), done=done)  # created here so that wall time excludes Ray's startup
        status.give([], slots)
        progress.begin("training the first runs")
        if out is not None:
            stack.enter_context(keep_status_file(storage.join(out, PROGRESS), status, owner))
        signals = stack.enter_context(job_signals())
        for run, seconds, error in _finished(waiting, names, settings, task, status, progress, signals):
            storage.locks.check(run.url)
            outcomes[run.url] = replace(run, status="failed" if error else "done", error=error)
            status.take(names[run.url], seconds, error)
            busy = status.seconds / (status.workers * status.wall_seconds)
            failed = {"failed": len(status.failed)} if status.failed else {}
            progress.update(1, busy=min(1.0, busy), last=names[run.url], **failed)
        progress.update(0, running=None, longest=None)
    return [outcomes.get(run.url, run) for run in runs], status


def _unique_names(runs: Sequence[CellRun]) -> dict[str, str]:
    """Map each run's URL to its name, prefixed with the dataset name in a suite."""
    folders = [run.url.split("/")[:-1] for run in runs]
    shared = sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)))
    return {run.url: "/".join(part for part in run.url.split("/")[shared:] if part != CELLS) for run in runs}


def _finished(
    waiting: Sequence[CellRun],
    names: Mapping[str, str],
    settings: StudySettings,
    task: Callable[[dict[str, Any]], dict[str, Any]],
    status: StudyStatus,
    progress: Progress,
    signals: Any,
) -> Iterable[tuple[CellRun, float, str | None]]:
    """Yield (run, seconds, error) whenever a run ends, and update status and progress every `POLL_SECONDS`."""
    import ray

    selector = waiting[0].recipe.training.label_selector
    remote = ray.remote(task).options(
        num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=settings.retries, label_selector=selector or None
    )
    queued = list(reversed(waiting))
    running: dict[Any, tuple[CellRun, float]] = {}
    try:
        while running or (queued and not requested()):
            slots = _slots(settings, selector)  # changes when machines join or leave the cluster
            while queued and len(running) < slots and not requested():
                run = queued.pop()
                running[remote.remote({**run.spec, "signals": signals, "session": current()})] = (run, time.monotonic())
            elapsed = {names[run.url]: time.monotonic() - since for run, since in running.values()}
            status.give(list(elapsed), slots)
            if elapsed:
                longest = max(elapsed, key=elapsed.__getitem__)
                progress.update(0, running=len(elapsed), longest=f"{longest} for {duration(elapsed[longest])}")
            ready, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            for reference in ready:
                run, since = running.pop(reference)
                try:
                    result = ray.get(reference)
                    if not result.get("stopped"):
                        yield run, result["seconds"], result["error"]
                except ray.exceptions.RayError as error:
                    yield run, time.monotonic() - since, _sentence(error)
    finally:
        for reference in running:  # cancel unfinished runs after an interrupt
            with suppress(ray.exceptions.RayError):
                ray.cancel(reference, force=True)


def _slots(settings: StudySettings, selector: Mapping[str, str], first: bool = False) -> int:
    """Return the maximum number of concurrent runs, at least 1; an autoscaling cluster grows to fit them.

    Args:
        selector: `training.label_selector`.
        first: whether this is the first call, which raises an error if the cluster is too small; later calls assume
            that lost machines will come back.
    """
    available = capacity(selector)
    for name, wanted in (("CPU", settings.cpus), ("GPU", settings.gpus)) if first else ():
        if wanted > available[name]:
            raise UserError(
                f"study.{name.lower()}s is {wanted:g}, but the cluster has {available[name]:g} {name}s; use a larger "
                f"cluster or reduce study.{name.lower()}s"
            )
    gpu_slots = available["GPU"] / settings.gpus if settings.gpus else math.inf
    return max(1, int(min(available["CPU"] / settings.cpus, gpu_slots, MAX_CELLS)))


def _sentence(error: BaseException) -> str:
    """Format the cause of a failure as one line, starting with the exception type unless it is a `UserError`."""
    error = unwrapped(error)
    error = custom_code_error(error) or error
    lines = [line.strip() for line in redacted(str(error)).splitlines() if line.strip()] or ["no reason given"]
    return lines[0] if isinstance(error, UserError) else f"{type(error).__name__}: {lines[0]}"
