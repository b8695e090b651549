"""`syncclip datasets`: list the benchmark datasets, and check local data."""

from __future__ import annotations

from typing import Annotated

import typer

from syncclip.cli.arguments import Root
from syncclip.core import text

app = typer.Typer(help="List the benchmark datasets, and check local data.")


@app.command("ls")
def ls(root: Root = None) -> None:
    """List the benchmark datasets with folder, image counts, prompt template, licence and citation."""
    from syncclip.datasets.catalog import DATASETS, INSTRUCTIONS
    from syncclip.datasets.check import listing
    from syncclip.datasets.loading import SHIPPED, bundled

    headings, rows = listing(root)
    text.show(text.table("Benchmark datasets", headings, rows))
    for dataset in DATASETS.values():
        if dataset.licence is None:
            text.show(f"page of {dataset.name}: {dataset.page}")
    text.show(f"Download and folder layout: {INSTRUCTIONS}")
    text.show(f"Bundled datasets: {', '.join(name for suite in SHIPPED for name in bundled(suite))}")


@app.command("check")
def check_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Dataset name from `datasets ls`, `all`, or a path.")],
    root: Root = None,
    images: Annotated[bool, typer.Option("--images", help="Decode all images of a large dataset.")] = False,
) -> None:
    """Check image counts, decode images, and report problems (exit status 1) and warnings."""
    from syncclip.datasets.catalog import DATASETS
    from syncclip.datasets.check import COUNTED, SMALL_SPLIT, check

    checks = [check(dataset, root, images) for dataset in (DATASETS if name == "all" else [name])]
    headings = ["name", *COUNTED, "state"]
    rows = [(result.name, *(result.count(what) for what in COUNTED), result.state) for result in checks]
    text.show(text.table("Checks", headings, rows))
    for result in checks:
        for problem in result.problems:
            text.show(f"{result.name}: {problem}")
        for warning in result.warnings:
            text.show(f"{result.name}: warning: {warning}")
        if result.warnings and (result.counts["test"] or 0) < SMALL_SPLIT:
            from syncclip.recipe.recipe import Recipe
            from syncclip.studies.design import power_line

            if power := power_line([Recipe.of_dataset(result.name, root)]):
                text.show(f"{result.name}: {power}")
        if result.skipped:
            text.show(f"{result.name}: {result.skipped}")
    if any(result.problems for result in checks):
        raise typer.Exit(1)
