"""`syncclip datasets`: the datasets of the literature, and whether data on this machine is complete."""

from __future__ import annotations

from typing import Annotated

import typer

from syncclip.cli.arguments import Root
from syncclip.core import text

app = typer.Typer(help="List the literature's datasets, and check data on your disk.")


@app.command("ls")
def ls(root: Root = None) -> None:
    """List the literature's datasets: folder, counts, template, licence, what to cite."""
    from syncclip.datasets.catalog import DATASETS, INSTRUCTIONS
    from syncclip.datasets.check import listing

    headings, rows = listing(root)
    text.show(text.table("Datasets of the literature", headings, rows))
    for dataset in DATASETS.values():
        if dataset.licence is None:
            text.show(f"the page of {dataset.name}: {dataset.page}")
    text.show(f"Where to get them, and how to organise them: {INSTRUCTIONS}")


@app.command("check")
def check_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `datasets ls`, `all`, or a path.")],
    root: Root = None,
    images: Annotated[bool, typer.Option("--images", help="Decode every image, not a sample.")] = False,
) -> None:
    """Compare counts, decode a sample of the images, and report problems; exit status 1 if there are any."""
    from syncclip.datasets.catalog import DATASETS
    from syncclip.datasets.check import COUNTED, check
    from syncclip.datasets.folders import skipped_files

    checks = [check(one, root, images) for one in (DATASETS if name == "all" else [name])]
    headings = ["name", *COUNTED, "state"]
    rows = [(one.name, *(one.count(what) for what in COUNTED), one.state) for one in checks]
    text.show(text.table("What is there", headings, rows))
    for one in checks:
        for problem in one.problems:
            text.show(f"{one.name}: {problem}")
        if one.skipped:
            text.show(f"{one.name}: {skipped_files(one.skipped)}")
    if any(one.problems for one in checks):
        raise typer.Exit(1)
