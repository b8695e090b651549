"""`syncclip shards`: looking into a synthetic set."""

from __future__ import annotations

from typing import Annotated

import typer

from syncclip.commands.arguments import Folder

app = typer.Typer(help="Look into a synthetic set: its shards, whether they are sound, single samples.")


@app.command("ls")
def ls(folder: Folder) -> None:
    """List the committed shards of a set."""
    from syncclip import tables
    from syncclip.inspection import listing

    headings, rows = listing(folder)
    tables.show(tables.table(folder, headings, rows))


@app.command("verify")
def verify_command(folder: Folder) -> None:
    """Read a set from end to end and tell what is wrong with it; exit status 1 if anything is."""
    from syncclip import tables
    from syncclip.shards.layout import committed, verify

    problems = verify(folder)
    for problem in problems:
        tables.show(problem)
    if problems:
        raise typer.Exit(1)
    tables.show(f"{folder}: {len(committed(folder))} shards, all sound")


@app.command("show")
def show(
    folder: Folder,
    index: Annotated[int, typer.Argument(help="Number of the sample in the set, from 0.")] = 0,
    save: Annotated[str | None, typer.Option("--save", metavar="FILE", help="Copy the picture there.")] = None,
) -> None:
    """Show one sample: class, prompt, where it came from."""
    from syncclip import tables
    from syncclip.inspection import sample

    tables.show(sample(folder, index, save))
