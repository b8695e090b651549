"""`syncclip verify` and `recompute`: verify checksums of files, and recompute a study's numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from syncclip.cli.arguments import Folder, Overrides, configure_storage
from syncclip.core import text
from syncclip.core.text import MISSING, counted, few

if TYPE_CHECKING:
    from syncclip.verify import Verification

MAX_DIFFERENCES = 10
"""Maximum number of differences that `recompute` prints."""


def verify(folder: Folder, overrides: Overrides) -> None:
    """Verify all checksums of a dataset, run, study, export or predictions; exit with status 1 if a file is damaged."""
    configure_storage(overrides)
    if show_problems(folder).problems:
        raise typer.Exit(1)


def show_problems(folder: str, actors: int = 1) -> Verification:
    """Verify a folder, its shards on several actors; print each problem immediately, then a summary."""
    from syncclip.verify import verify

    result = verify(folder, text.show, actors)
    text.show(f"{folder}: {counted(result.files, 'file')} read, {counted(len(result.problems), 'problem')}")
    if result.foreign:
        text.show(f"{counted(len(result.foreign), 'unchecked file')} not written by syncclip: {few(result.foreign)}")
    return result


def recompute(folder: Folder) -> None:
    """Recompute a study's means, intervals and curves from its predictions; exit with status 1 if a number differs."""
    from syncclip.evaluation.metrics import legend
    from syncclip.studies import levels, predictions, summary
    from syncclip.studies.levels_state import read_state

    result = (levels if read_state(folder) else predictions).recompute(folder)
    for table in summary.recomputed(result.means, result.comparisons):
        text.show(text.table(table.title, table.headings, table.rows))
    text.show(legend([*summary.HEADINGS.values(), MISSING]))
    for difference in result.differ[:MAX_DIFFERENCES]:
        text.show(f"{folder}: {difference}")
    outcome = "all equal" if not result.differ else f"{len(result.differ):,} differ from the study's files"
    text.show(f"{folder}: {counted(result.numbers, 'number')} recomputed, {outcome}")
    if result.differ:
        raise typer.Exit(1)
