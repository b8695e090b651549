"""`syncclip shards`: look into sets of shards, and make them from existing images."""

from __future__ import annotations

from typing import Annotated

import typer

import syncclip
from syncclip.cli.arguments import Folder, Out, OutSet, Overrides, Root, configure_storage
from syncclip.cli.verify import checked
from syncclip.core import text
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.runtime.progress import say

app = typer.Typer(help="Look into sets of shards, and make them from existing images.")


@app.command("ls")
def ls(folder: Folder, overrides: Overrides) -> None:
    """List the committed shards of a set."""
    from syncclip.cli import render
    from syncclip.shards.markers import committed

    configure_storage(overrides)
    shards = committed(folder)
    if not shards:
        raise UserError(f"{folder}: no committed shard there; make a set with `syncclip synth RECIPE --out {folder}`")
    text.show(render.listing(folder, shards.values()))


@app.command("verify")
def verify_command(
    folder: Folder,
    overrides: Overrides,
    repair: Annotated[bool, typer.Option("--repair", help="Generate damaged shards again, to the same bytes.")] = False,
) -> None:
    """Read a whole set and report what is wrong with it; exit status 1 if anything is and stays so."""
    from syncclip.shards.markers import committed
    from syncclip.synthetic_sets.repair import repair_set

    configure_storage(overrides)
    found = checked(folder)
    if found.shards and repair:
        again = repair_set(folder, found.shards, _recipe_of(folder, overrides).synthesis.pool)
        text.show(f"{folder}: {counted(len(again), 'shard')} generated again")
    if len(found.problems) > (found.mendable if repair else 0):
        raise typer.Exit(1)
    text.show(f"{folder}: {counted(len(committed(folder)), 'shard')}, all sound")


@app.command("quality")
def quality_command(folder: Folder, overrides: Overrides) -> None:
    """Measure how recognisable, varied and close to real images a set is; written beside it as stats.json."""
    from syncclip.cli import render
    from syncclip.synthetic_sets.quality import measure_quality

    found = measure_quality(_recipe_of(folder, overrides), folder)
    text.show(render.quality(found))


@app.command("show")
def show(
    folder: Folder,
    index: Annotated[int, typer.Argument(help="Number of the sample in the set, from 0.")] = 0,
    *,
    overrides: Overrides,
    save: Annotated[str | None, typer.Option("--save", metavar="FILE", help="Copy the image there.")] = None,
) -> None:
    """Show one sample: class, prompt, provenance."""
    import numpy as np

    from syncclip import storage
    from syncclip.cli import render
    from syncclip.shards.reader import ShardSet

    configure_storage(overrides)
    images = ShardSet(folder)
    rows = np.flatnonzero(images.samples.index == index)
    if not len(rows):
        last = images.samples.index.max()
        raise UserError(f"{folder}: no sample {index}; the last of its {len(images):,} is {last}")
    text.show(render.sample(images, int(rows[0])))
    if save is not None:
        storage.write_bytes(save, images.read(int(rows[0])))
        text.show(f"saved: {save}")


@app.command("import")
def import_command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A split file, its folder, or tars with class ids.")],
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="The dataset whose class ids it uses.")],
    out: OutSet,
    root: Root = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="DIR", help="The folder of a split file's images.")
    ] = None,
) -> None:
    """Import a synthetic set that others made, to use with training.synthetic=DIR."""
    from collections import Counter

    from syncclip import storage
    from syncclip.datasets.folders import skipped_files
    from syncclip.datasets.loading import read_dataset
    from syncclip.shards.images import Corruption
    from syncclip.synthetic_sets.imported import import_set

    recipe = syncclip.Recipe.of_dataset(dataset, root)
    storage.configure(recipe.storage.options)
    unreadable, skipped = Corruption(limit=None), Counter[str]()
    found = import_set(source, read_dataset(recipe.dataset), out, images, unreadable, skipped)
    count, classes = counted(sum(found.counts), "image"), counted(found.classes, "class", "classes")
    fewest = f"{min(found.counts)} to {max(found.counts)} a class"
    if skipped:
        say(f"shards import: {skipped_files(skipped)}")
    if unreadable.names:
        say(f"shards import: {counted(unreadable.images, 'image')} could not be read: {text.few(unreadable.names)}")
    text.show(f"{count} of {classes}, {fewest}; use them with training.synthetic={out}")


@app.command("merge")
def merge_command(
    sets: Annotated[list[str], typer.Argument(metavar="DIR", help="Two sets or more, of the same classes.")],
    out: OutSet,
) -> None:
    """Merge several sets; in each class the images of the first come first. If interrupted, run it again."""
    from syncclip.synthetic_sets.merge import merge_sets

    found = merge_sets(sets, out)
    count, classes = counted(sum(found.counts), "image"), counted(found.classes, "class", "classes")
    text.show(f"{count} of {classes}, {min(found.counts)} a class or more: {out}")


@app.command("export")
def export_command(
    folder: Folder,
    overrides: Overrides,
    *,
    to: Annotated[str, typer.Option("--to", metavar="LAYOUT", help="folder, huggingface or split-zhou.")],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where it goes: a folder or a URL.")],
    licence: Annotated[str, typer.Option("--license", help="Of the images, for the card (huggingface).")] = "unknown",
) -> None:
    """Export a set in a common layout: a folder per class, a dataset of the hub, or a split file with images."""
    from syncclip.synthetic_sets.export import export_set

    configure_storage(overrides)
    text.show(f"{counted(export_set(folder, out, to, licence), 'image')}: {out}")


@app.command("pack")
def pack_command(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A name, a path, or a recipe's YAML file.")],
    root: Root = None,
    out: Out = None,
    resize: Annotated[
        int | None, typer.Option("--resize", metavar="PX", help="Scale shorter sides down to it.")
    ] = None,
    shots: Annotated[str, typer.Option("--shots", help="Shots per class that will be trained with.")] = "1,2,4,8,16",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds that the shots will be chosen by.")] = "1,2,3",
) -> None:
    """Pack a dataset's few-shot, validation and test images into shards that a cluster can stream."""
    from syncclip import storage
    from syncclip.datasets.loading import read_dataset
    from syncclip.datasets.packed import pack

    recipe = syncclip.Recipe.of_dataset(dataset, root, {"dataset.resize": resize})
    url = out or storage.join(recipe.storage.root, "packed", recipe.name)
    storage.configure(recipe.storage.options)
    read = read_dataset(recipe.dataset)
    counts = pack(read, url, _numbers("--shots", shots), _numbers("--seeds", seeds), recipe.dataset.resize)
    text.show(f"{read.name}: {', '.join(f'{count:,} {split}' for split, count in counts.items())} images")
    text.show(url)


def _numbers(option: str, text: str) -> list[int]:
    """The numbers of an option such as `--seeds 1,2,3`.

    Raises:
        UserError: the text is something else.
    """
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise UserError(f"{option} {text}: give whole numbers separated by commas, such as 1,2,3.") from error


def _recipe_of(folder: str, overrides: list[str]) -> syncclip.Recipe:
    """The recipe beside a set that it was generated from, or one of defaults; storage is configured for it."""
    from syncclip import storage
    from syncclip.synthetic_sets.imported import SET_RECIPE

    recipe, place = syncclip.Recipe.of_defaults(overrides), storage.join(folder, SET_RECIPE)
    storage.configure(recipe.storage.options)
    if storage.exists(place):
        recipe = syncclip.Recipe.load(place, overrides, own=False)
        storage.configure(recipe.storage.options)
    return recipe
