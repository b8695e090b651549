"""Running the cells of a grid: each is one short training in a Ray task, resumable and independent of the others."""

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
from syncclip.core.custom_code import own_code_error
from syncclip.core.secrets import redacted
from syncclip.core.session import current
from syncclip.core.settings import UserError
from syncclip.core.text import duration
from syncclip.evaluation.predict import RESULTS, read_results
from syncclip.recipe.recipe import Recipe
from syncclip.recipe.study import Configuration, StudySettings
from syncclip.runs import evaluate as scoring
from syncclip.runs.build import ModelCache
from syncclip.runs.data import KnownSets
from syncclip.runs.resolve import from_spec, resolve_run, to_spec
from syncclip.runtime.progress import Progress, say
from syncclip.runtime.ray_session import capacity, cause_of, debugging, heeding, ray_session, telling
from syncclip.runtime.shutdown import requested
from syncclip.storage.status_file import keep_status_file
from syncclip.studies.grid import Cell
from syncclip.studies.outputs import CELLS, Status, read_json, write_json
from syncclip.studies.status import PROGRESS, StudyStatus
from syncclip.training.loop import StoppedError
from syncclip.training.run_folder import RunFolder

TIMING = "cell.json"
"""In a cell's folder: seconds that the whole cell took, over all starts."""

MOST_CELLS = 256
"""Cells that are handed to a cluster at once, however far it may grow."""

PATIENCE = 60.0
"""Seconds for which a cell waits for another process that runs it: that of a killed study ends soon."""

POLL = 2.0
"""Seconds between two looks at the running cells, for the progress line."""


@dataclass(frozen=True)
class CellRun:
    """A cell with what is to be run and where, and what became of it."""

    cell: Cell
    recipe: Recipe
    folder: RunFolder
    status: Status = "waiting"
    error: str | None = None

    @property
    def url(self) -> str:
        """Where its run is."""
        return self.folder.url

    @property
    def spec(self) -> dict[str, Any]:
        """The run as plain data, see `run_cell`."""
        return to_spec(self.recipe, self.folder)

    @property
    def seconds(self) -> float | None:
        """What the cell took, None where it was not finished here; reported where its file was removed."""
        seconds = _seconds_of(self.folder)
        if seconds is None and self.status == "done" and TIMING in (storage.read_contents(self.url) or ()):
            say(f"{self.folder.path(TIMING)} is missing, so the cost leaves this run out")
        return seconds

    @property
    def results(self) -> dict[str, Any]:
        """The numbers of a finished cell."""
        return read_results(storage.join(self.url, RESULTS), self.folder.owner)


def cell_recipe(recipe: Recipe, cell: Cell, synthetic: str | None) -> Recipe:
    """The recipe of one cell's training: one worker, the configuration's own values last.

    Args:
        recipe: of the study.
        synthetic: where the synthetic set lies.
    """
    values: dict[str, Any] = {
        "training.method": cell.configuration.method,
        "training.data": cell.configuration.data,
        "training.workers": 1,
        "training.synthetic": synthetic if cell.configuration.synthetic else None,
        "training.images_per_class": cell.images_per_class,
    }
    if cell.seed is not None:
        values["training.seed"] = cell.seed
    return recipe.with_values({**values, **cell.configuration.overrides}, _place(recipe, cell.configuration))


def _place(recipe: Recipe, configuration: Configuration) -> str:
    """What a sentence about a configuration begins with; the configuration may be of a file, of the command line or
    of a protocol."""
    place = [one.name for one in recipe.study.configurations].index(configuration.name)
    return f"recipe {recipe.name!r}: study.configurations[{place}] {configuration.name!r}"


def check_configurations(recipe: Recipe) -> None:
    """Refuse, before anything is generated, a configuration or a candidate of a study whose cells no recipe could have.

    Raises:
        UserError: an unknown method or key, a wrong value or an impossible combination; or none of the amounts that
            a configuration wants is among the study's.
    """
    amounts = recipe.study.amounts
    for configuration in recipe.study.configurations:
        if configuration.synthetic and not configuration.at(amounts):
            raise UserError(
                f"{_place(recipe, configuration)}: images_per_class is {configuration.images_per_class}, none of "
                f"which is among the "
                f"study's {amounts}"
            )
        for tried in [{}, *({key: value} for key, values in configuration.search_space.items() for value in values)]:
            changed = configuration.model_copy(update={"overrides": {**configuration.overrides, **tried}})
            cell_recipe(recipe, Cell(changed, None, None), None)


def prepare(recipe: Recipe, cells: Sequence[Cell], out: str, synthetic: str | None) -> list[CellRun]:
    """Resolve every cell's recipe and see which are done. Nothing is written, and the set is read once for all.

    Raises:
        UserError: a cell's folder holds the run of another recipe or another synthetic set.
    """
    found, known = [], KnownSets()
    for cell in cells:
        url = storage.join(out, CELLS, cell.name)
        resolved, folder = resolve_run(cell_recipe(recipe, cell, synthetic), url, known)
        found.append(CellRun(cell, resolved, folder, "done" if scoring.done(resolved, folder) else "waiting"))
    return found


def run_cell(spec: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate one cell in this process. Runs as a Ray task.

    Args:
        spec: the cell's resolved run, see `CellRun.spec`.

    Returns:
        seconds, and error: None, or the sentence that says why the cell failed; and whether it was stopped, as its
        driver asked.
    """
    with spec.get("session", current()):
        return _run_cell(spec)


def _run_cell(spec: dict[str, Any]) -> dict[str, Any]:
    start = time.monotonic()
    error, stopped = None, False
    try:
        recipe, folder = from_spec(spec)
        with storage.lease(folder.url, "study", patience=PATIENCE):
            try:
                with heeding(spec.get("stop")):
                    jobs.run_resolved(recipe, folder, _model_cache(recipe.study.keep_images))
            except StoppedError:
                stopped = True
            seconds = (_seconds_of(folder) or 0.0) + time.monotonic() - start
            write_json(folder.path(TIMING), {"seconds": round(seconds, 3)}, folder.owner)
            storage.write_contents(folder.url, folder.owner)
    except Exception as problem:
        if debugging():
            raise
        error = _sentence(problem)
    return {"seconds": time.monotonic() - start, "error": error, "stopped": stopped}


def _seconds_of(folder: RunFolder) -> float | None:
    if not storage.exists(place := folder.path(TIMING)):
        return None
    seconds = read_json(place, folder.owner).get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


@functools.lru_cache(maxsize=1)
def _model_cache(keep_bytes: int) -> ModelCache:
    """What this process keeps from cell to cell; Ray gives it one after the other."""
    return ModelCache(keep_bytes)


def run_cells(
    runs: Sequence[CellRun],
    settings: StudySettings,
    label: str = "study",
    task: Callable[[dict[str, Any]], dict[str, Any]] = run_cell,
    out: str | None = None,
    owner: str = storage.NOBODY,
) -> tuple[list[CellRun], StudyStatus]:
    """Run the waiting cells on Ray, in order, as many at a time as there is room for; machines may come and go.

    A cell that fails is marked and the others go on; one whose process dies, or whose machine is lost, starts again up
    to `settings.retries` times, from its newest checkpoint. Killed at any time, the same call runs what is not done.

    Args:
        runs: from `prepare`.
        settings: of the study, for what a cell takes and how often it may start.
        label: of the progress line.
        task: what runs a cell; the same signature as `run_cell`.
        out: the study's folder, in which its status is kept; None for no status.
        owner: identity of the study, see `storage.seals`.

    Returns:
        The runs with their new status, in the order given, and what they took.

    Raises:
        UserError: the cluster can never hold a cell.
    """
    waiting = [run for run in runs if run.status == "waiting"]
    done = sum(run.status == "done" for run in runs)
    if not waiting:
        return list(runs), StudyStatus.begin(cells=len(runs), done=done)
    outcomes: dict[str, CellRun] = {}
    names = told_apart(runs)
    with Progress(len(runs), "cells", label, done=done) as progress, ray_session(), ExitStack() as stack:
        slots = _slots(settings, waiting[0].recipe.training.label_selector, first=True)
        status = StudyStatus.begin(cells=len(runs), done=done)  # here, so that its wall time counts no start of Ray
        status.give([], slots)
        if out is not None:
            stack.enter_context(keep_status_file(storage.join(out, PROGRESS), status, owner))
        stop = stack.enter_context(telling())
        for run, seconds, error in _finished(waiting, names, settings, task, status, progress, stop):
            storage.locks.check(run.url)
            outcomes[run.url] = replace(run, status="failed" if error else "done", error=error)
            status.take(names[run.url], seconds, error)
            busy = status.seconds / (status.workers * status.wall_seconds)
            failed = {"failed": len(status.failed)} if status.failed else {}
            progress.update(1, busy=min(1.0, busy), last=names[run.url], **failed)
        progress.update(0, running=None, longest=None)
    return [outcomes.get(run.url, run) for run in runs], status


def told_apart(runs: Sequence[CellRun]) -> dict[str, str]:
    """URL of each run -> its cell's name, with as much of its place as tells those of several datasets apart."""
    folders = [run.url.split("/")[:-1] for run in runs]
    shared = sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)))
    names = ("/".join(part for part in run.url.split("/")[shared:] if part != CELLS) for run in runs)
    return dict(zip((run.url for run in runs), names, strict=True))


def _finished(
    waiting: Sequence[CellRun],
    names: Mapping[str, str],
    settings: StudySettings,
    task: Callable[[dict[str, Any]], dict[str, Any]],
    status: StudyStatus,
    progress: Progress,
    stop: str,
) -> Iterable[tuple[CellRun, float, str | None]]:
    """(run, seconds, error) of each cell as it ends; every few seconds, status and progress learn what is running."""
    import ray

    selector = waiting[0].recipe.training.label_selector
    remote = ray.remote(task).options(
        num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=settings.retries, label_selector=selector or None
    )
    coming = list(reversed(waiting))
    running: dict[Any, tuple[CellRun, float]] = {}
    try:
        while running or (coming and not requested()):
            slots = _slots(settings, selector)  # another number whenever a machine joins or is lost
            while coming and len(running) < slots and not requested():
                run = coming.pop()
                running[remote.remote({**run.spec, "stop": stop, "session": current()})] = (run, time.monotonic())
            taken = {names[run.url]: time.monotonic() - since for run, since in running.values()}
            status.give(list(taken), slots)
            if taken:
                longest = max(taken, key=taken.__getitem__)
                progress.update(0, running=len(taken), longest=f"{longest} for {duration(taken[longest])}")
            ready, _ = ray.wait(list(running), timeout=POLL)
            for reference in ready:
                run, since = running.pop(reference)
                try:
                    answer = ray.get(reference)
                    if not answer.get("stopped"):
                        yield run, answer["seconds"], answer["error"]
                except ray.exceptions.RayError as problem:
                    yield run, time.monotonic() - since, _sentence(problem)
    finally:
        for reference in running:  # after an interrupt nothing should go on in the background
            with suppress(ray.exceptions.RayError):
                ray.cancel(reference, force=True)


def _slots(settings: StudySettings, selector: Mapping[str, str], first: bool = False) -> int:
    """Cells that may run at the same time, at least one; asking for so many is what makes a cluster grow.

    Args:
        selector: `training.label_selector` of the cells.
        first: refuse what the cluster can't hold; later on, the machine that could may come back.
    """
    there = capacity(selector)
    for name, wanted in (("CPU", settings.cpus), ("GPU", settings.gpus)) if first else ():
        if wanted > there[name]:
            raise UserError(
                f"study.{name.lower()}s is {wanted:g}, but the cluster has {there[name]:g} {name}s; "
                "ask for less or join a larger cluster"
            )
    slots = min(there["CPU"] / settings.cpus, there["GPU"] / settings.gpus if settings.gpus else math.inf)
    return max(1, int(min(slots, MOST_CELLS)))


def _sentence(problem: BaseException) -> str:
    """The cause of a failure in one line; the type only where it is not a user's mistake."""
    problem = cause_of(problem)
    problem = own_code_error(problem) or problem
    lines = [line.strip() for line in redacted(str(problem)).splitlines() if line.strip()] or ["no reason given"]
    return lines[0] if isinstance(problem, UserError) else f"{type(problem).__name__}: {lines[0]}"
