"""`syncclip status`: how a synthesis, a training or a study is doing, from anywhere."""

from __future__ import annotations

from syncclip.cli.arguments import Folder, Overrides, reach


def status(folder: Folder, overrides: Overrides = None) -> None:
    """Tell how a set, a run or a study is doing: rate, time left, busy shares, rejects, last sign of life."""
    from syncclip.cli.inspect import status
    from syncclip.core import tables

    reach(overrides)
    tables.show("\n".join(status(folder)))
