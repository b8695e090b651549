"""`syncclip verify` and `recompute`: hold files against their digests, and a study's numbers against its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from syncclip.cli.arguments import Folder, Overrides, configure_storage
from syncclip.core import text
from syncclip.core.text import counted, few

if TYPE_CHECKING:
    from syncclip.verify import Verification

MOST_TOLD = 10
"""Numbers that differ are told one by one up to so many."""


def verify(folder: Folder, overrides: Overrides) -> None:
    """Verify all checksums of a set, run, study, packed dataset, export or predictions; exit status 1 on damage."""
    configure_storage(overrides)
    found = checked(folder)
    if found.problems:
        raise typer.Exit(1)


def checked(folder: str) -> Verification:
    """Verify a folder, and print each problem as it is found, then how much was read."""
    from syncclip.verify import verify

    found = verify(folder, text.show)
    text.show(f"{folder}: {counted(found.files, 'file')} read, {counted(len(found.problems), 'problem')}")
    if found.foreign:
        text.show(f"{len(found.foreign):,} not written by syncclip, so not checked: {few(found.foreign)}")
    return found


def recompute(folder: Folder) -> None:
    """Compute a study's means, intervals and curves again from its answers; exit status 1 if a number differs."""
    from syncclip.studies import predictions, summary

    found = predictions.recompute(folder)
    for table in summary.recomputed(found.means, found.comparisons):
        text.show(text.table(table.title, table.headings, table.rows))
    for sentence in found.differ[:MOST_TOLD]:
        text.show(f"{folder}: {sentence}")
    same = "all as in its files" if not found.differ else f"{len(found.differ):,} differ from its files"
    text.show(f"{folder}: {counted(found.numbers, 'number')} recomputed, {same}")
    if found.differ:
        raise typer.Exit(1)
