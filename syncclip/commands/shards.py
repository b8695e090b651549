"""`syncclip shards`: looking into sets of shards, and making them of pictures that are there already."""

from __future__ import annotations

from typing import Annotated

import typer

from syncclip.commands.arguments import Folder, Out
from syncclip.commands.benchmarks import Root

app = typer.Typer(help="Look into sets of shards, and make them of pictures that are there already.")


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
    from syncclip.shards.checking import verify
    from syncclip.shards.layout import committed

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


@app.command("import")
def import_command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A split file, its folder, or tars with class ids.")],
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="Whose class ids it uses.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where the set goes: a folder or a URL.")],
    root: Root = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="DIR", help="Where the pictures of a split file lie.")
    ] = None,
) -> None:
    """Take over a synthetic set that others made, to be used by training.synthetic=DIR."""
    from syncclip import storage, tables
    from syncclip.benchmarks.loading import read_benchmark
    from syncclip.recipe import Recipe
    from syncclip.synthesis.imported import import_set

    recipe = Recipe.of_benchmark(benchmark, root)
    storage.configure(recipe.storage.options)
    found = import_set(source, read_benchmark(recipe.benchmark), out, images)
    fewest = f", {min(found.counts)} to {max(found.counts)} a class"
    tables.show(
        f"{sum(found.counts):,} pictures of {found.classes} classes{fewest}; use them by training.synthetic={out}"
    )


@app.command("pack")
def pack_command(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="A name, a path, or a recipe's YAML file.")],
    root: Root = None,
    out: Out = None,
    resize: Annotated[
        int | None, typer.Option("--resize", metavar="PX", help="Scale shorter sides down to it.")
    ] = None,
    shots: Annotated[str, typer.Option("--shots", help="Shots per class that will be trained with.")] = "1,2,4,8,16",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds that the shots will be drawn by.")] = "1,2,3",
) -> None:
    """Turn a benchmark's few-shot, validation and test pictures into shards, which a cluster streams from one place."""
    from syncclip import storage, tables
    from syncclip.benchmarks.loading import read_benchmark
    from syncclip.benchmarks.packing import numbers, pack
    from syncclip.recipe import Recipe

    recipe = Recipe.of_benchmark(benchmark, root, {"benchmark.resize": resize})
    url = out or storage.join(recipe.storage.root, "packed", recipe.name)
    storage.configure(recipe.storage.options)
    read = read_benchmark(recipe.benchmark)
    counts = pack(read, url, numbers("--shots", shots), numbers("--seeds", seeds), recipe.benchmark.resize)
    tables.show(f"{read.name}: {', '.join(f'{count:,} {split}' for split, count in counts.items())} pictures")
    tables.show(url)
