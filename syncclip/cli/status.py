"""`syncclip status`: the progress of a synthesis, a training or a study, from anywhere."""

from __future__ import annotations

from syncclip.cli.arguments import Folder, Overrides, configure_storage
from syncclip.core import text
from syncclip.core.settings import UserError


def status(folder: Folder, overrides: Overrides) -> None:
    """Report the progress of a set, a run or a study: rate, time left, busy shares, rejects, last sign of life."""
    configure_storage(overrides)
    text.show("\n".join(progress(folder)))


def study_status(url: str) -> list[str]:
    """The progress of the study at `url`, as lines of text.

    Raises:
        UserError: there is none.
    """
    from syncclip.studies.status import read_study_status

    found = read_study_status(url)
    if found is None:
        raise UserError(f"{url}: no study has run its cells there yet; start one with `syncclip study RECIPE`")
    return [url, *found.lines()]


def progress(url: str) -> list[str]:
    """The progress of the study, set or run at `url`, or of the set in a recipe's folder, as lines of text.

    Raises:
        UserError: none of them is there.
    """
    from syncclip import storage
    from syncclip.shards.markers import committed
    from syncclip.studies.outputs import STATE
    from syncclip.studies.status import PROGRESS, read_study_status
    from syncclip.synthesis.plan import read_plan
    from syncclip.synthesis.status import read_status
    from syncclip.training.status import run_lines

    if (study := read_study_status(url)) is not None:
        state = storage.join(url, STATE)
        owner = storage.read_owner(state) if storage.exists(state) else None
        other = owner not in (None, storage.read_owner(storage.join(url, PROGRESS)))
        note = f"{PROGRESS} is of another grid than {STATE}: the study is being extended, or a file was exchanged"
        return [url, *study.lines(), *([note] if other else [])]
    for place in (url, storage.join(url, "synthetic")):
        plan = read_plan(place)
        if (found := read_status(place, plan.owner if plan else None)) is not None:
            return [place, *found.lines()]
    if (lines := run_lines(url)) is not None:
        return [url, *lines]
    if shards := committed(url):
        return [url, f"{text.counted(len(shards), 'shard')} committed; no record of how their synthesis ended"]
    raise UserError(f"{url}: no set and no run there; give the folder that `synth` or `train` printed")
