"""`syncclip status`: report the progress of a synthesis job, training run or study from any machine."""

from __future__ import annotations

from syncclip.cli.arguments import Folder, Overrides, configure_storage
from syncclip.core import text
from syncclip.core.settings import UserError


def status(folder: Folder, overrides: Overrides) -> None:
    """Report the progress of a dataset, run or study: throughput, time left, utilisation, rejects, last heartbeat."""
    configure_storage(overrides)
    text.show("\n".join(progress(folder)))


def study_status(url: str) -> list[str]:
    """Return the progress of a study as lines of text; raise a `UserError` if there is no study."""
    lines = _study_lines(url)
    if lines is None:
        raise UserError(f"{url}: no study has started training in this folder; start one with `syncclip study RECIPE`")
    return lines


def progress(url: str) -> list[str]:
    """Return the progress of a study, run or synthetic dataset as lines of text; `url` may be the recipe's folder.

    Raises:
        UserError: the folder contains no study, run or synthetic dataset.
    """
    from syncclip import storage
    from syncclip.shards.markers import committed
    from syncclip.synthesis.plan import read_plan
    from syncclip.synthesis.status import read_status
    from syncclip.training.status import status_lines

    if (lines := _study_lines(url)) is not None:
        return lines
    for set_url in (url, storage.join(url, "synthetic")):
        plan = read_plan(set_url)
        if (synthesis := read_status(set_url, plan.owner if plan else None)) is not None:
            return [set_url, *synthesis.lines()]
    if (lines := status_lines(url)) is not None:
        return [url, *lines]
    if shards := committed(url):
        return [url, f"{text.counted(len(shards), 'shard')} committed; the status of the synthesis is unknown"]
    problem = "neither a synthetic dataset nor a run; use a folder written by `synth` or `train`"
    raise storage.wrong_folder(url, "a study, run or synthetic dataset", problem)


def _study_lines(url: str) -> list[str] | None:
    from syncclip import storage
    from syncclip.studies.levels_state import read_state
    from syncclip.studies.outputs import STATE
    from syncclip.studies.status import PROGRESS, read_study_status

    if (levels := read_state(url)) is not None:
        of_levels = {tag: _study_lines(storage.join(url, tag)) for tag in levels.pretrained}
        return [line for tag, lines in of_levels.items() for line in lines or [f"{url}: {tag} has not started"]]
    if (study := read_study_status(url)) is None:
        return None
    state = storage.join(url, STATE)
    owner = storage.read_owner(state) if storage.exists(state) else None
    other_grid = owner not in (None, storage.read_owner(storage.join(url, PROGRESS)))
    note = f"{PROGRESS} and {STATE} describe different grids; the study is being extended, or a file was replaced"
    return [url, *study.lines(), *([note] if other_grid else [])]
