"""`syncclip verify`: hold every file of a set, a run, a study or a packed dataset against its digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from syncclip.cli.arguments import Folder, Overrides, configure_storage
from syncclip.core import text
from syncclip.core.text import counted, few

if TYPE_CHECKING:
    from syncclip.studies.verify import Verification


def verify(folder: Folder, overrides: Overrides) -> None:
    """Read every file of a set, a run, a study or a packed dataset; exit status 1 if one is damaged or missing."""
    configure_storage(overrides)
    found = checked(folder)
    if found.problems:
        raise typer.Exit(1)


def checked(folder: str) -> Verification:
    """Verify a folder, and print each problem as it is found, then how much was read."""
    from syncclip.studies.verify import verify

    found = verify(folder, text.show)
    text.show(f"{folder}: {counted(found.files, 'file')} read, {counted(len(found.problems), 'problem')}")
    if found.without:
        text.show(
            f"{len(found.without):,} carry no digest, of an earlier version or from elsewhere: {few(found.without)}"
        )
    return found
