"""`syncclip benchmarks`: which benchmarks of the literature there are, and whether their data lies as it should."""

from __future__ import annotations

from typing import Annotated

import typer

from syncclip.commands.arguments import Root
from syncclip.counting import counted

app = typer.Typer(help="See the literature's benchmarks, and check data that lies on your disk.")


@app.command("ls")
def ls(root: Root = None) -> None:
    """List the literature's benchmarks: folder, counts, template, licence, what to cite."""
    from syncclip import tables
    from syncclip.benchmarks.checking import listing
    from syncclip.benchmarks.literature import DATASETS, INSTRUCTIONS

    headings, rows = listing(root)
    tables.show(tables.table("Benchmarks of the literature", headings, rows))
    for dataset in DATASETS.values():
        if dataset.licence is None:
            tables.show(f"the page of {dataset.name}: {dataset.page}")
    tables.show(f"Where to get them, and how to lay them out: {INSTRUCTIONS}")


@app.command("check")
def check_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `benchmarks ls`, `all`, or a path.")],
    root: Root = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Open every picture, which takes long.")] = False,
) -> None:
    """Tell what is there, what is missing, and how counts compare; exit status 1 if anything is wrong."""
    from syncclip import tables
    from syncclip.benchmarks.checking import COUNTED, check
    from syncclip.benchmarks.literature import DATASETS

    checks = [check(one, root, pictures) for one in (DATASETS if name == "all" else [name])]
    headings = ["name", *COUNTED, "state"]
    rows = [
        (
            one.name,
            *(one.count(what) for what in COUNTED),
            counted(len(one.problems), "problem") if one.problems else "as it should be",
        )
        for one in checks
    ]
    tables.show(tables.table("What is there", headings, rows))
    for one in checks:
        for problem in one.problems:
            tables.show(f"{one.name}: {problem}")
    if any(one.problems for one in checks):
        raise typer.Exit(1)
