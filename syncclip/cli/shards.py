"""`syncclip shards`: inspect, verify, import, merge, export and pack shards."""

from __future__ import annotations

from typing import Annotated

import typer

import syncclip
from syncclip.cli.arguments import Actors, Folder, Out, OutFolder, Overrides, Root, configure_storage
from syncclip.cli.verify import show_problems
from syncclip.core import text
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.runtime.progress import print_message

app = typer.Typer(help="Inspect, verify, import, merge, export and pack shards.")


@app.command("ls")
def ls(folder: Folder, overrides: Overrides) -> None:
    """List the committed shards of a synthetic dataset."""
    from syncclip import storage
    from syncclip.cli import render
    from syncclip.shards.markers import committed
    from syncclip.synthesis.plan import read_plan

    configure_storage(overrides)
    shards = committed(folder)
    if not shards:
        fix = f"no committed shards; generate some with `syncclip synth RECIPE --out {folder}`"
        raise storage.wrong_folder(folder, "a synthetic dataset", fix)
    text.show(render.listing(folder, shards.values(), read_plan(folder)))


@app.command("verify")
def verify_command(
    folder: Folder,
    overrides: Overrides,
    repair: Annotated[bool, typer.Option("--repair", help="Regenerate damaged shards, byte for byte.")] = False,
    actors: Actors = 1,
) -> None:
    """Verify all files of a synthetic dataset and report damage; exit with status 1 if damage remains."""
    from syncclip.shards.markers import committed
    from syncclip.synthetic_sets.repair import repair_set

    configure_storage(overrides)
    result = show_problems(folder, actors)
    if result.shards and repair:
        repaired = repair_set(folder, result.shards, _recipe_of(folder, overrides).synthesis.pool)
        text.show(f"{folder}: {counted(len(repaired), 'shard')} regenerated")
    if len(result.problems) > (result.mendable if repair else 0):
        raise typer.Exit(1)
    text.show(f"{folder}: {counted(len(committed(folder)), 'shard')}, all intact")


@app.command("quality")
def quality_command(folder: Folder, overrides: Overrides) -> None:
    """Measure the accuracy, diversity and domain shift of a synthetic dataset, and write the results to stats.json."""
    from syncclip.cli import render
    from syncclip.synthetic_sets.quality import measure_quality

    text.show(render.quality(measure_quality(_recipe_of(folder, overrides), folder)))


@app.command("show")
def show(
    folder: Folder,
    index: Annotated[int, typer.Argument(help="Zero-based index of the sample.")] = 0,
    *,
    overrides: Overrides,
    save: Annotated[str | None, typer.Option("--save", metavar="FILE", help="Save the image to this file.")] = None,
) -> None:
    """Show the class, prompt and provenance of one sample."""
    import numpy as np

    from syncclip import storage
    from syncclip.cli import render
    from syncclip.shards.reader import ShardSet

    configure_storage(overrides)
    images = ShardSet(folder)
    rows = np.flatnonzero(images.samples.index == index)
    if not len(rows):
        last = images.samples.index.max()
        raise UserError(f"{folder}: sample {index} does not exist; use an index from 0 to {last}")
    text.show(render.sample(images, int(rows[0])))
    if save is not None:
        storage.write_bytes(save, images.read(int(rows[0])))
        text.show(f"saved: {save}")


@app.command("import")
def import_command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Split file or its folder, or tars with class labels.")
    ],
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Dataset that defines the class labels.")],
    out: OutFolder,
    root: Root = None,
    images: Annotated[
        str | None, typer.Option("--images", metavar="DIR", help="Folder with the images listed in a split file.")
    ] = None,
) -> None:
    """Import an existing synthetic dataset, for training with training.synthetic=DIR."""
    from syncclip import storage
    from syncclip.datasets.loading import read_dataset
    from syncclip.shards.images import Corruption, SkippedFiles
    from syncclip.synthetic_sets.imported import import_set

    recipe = syncclip.Recipe.of_dataset(dataset, root)
    storage.configure(recipe.storage.options)
    unreadable, skipped = Corruption(limit=None), SkippedFiles()
    imported = import_set(source, read_dataset(recipe.dataset), out, images, unreadable, skipped)
    count, classes = counted(sum(imported.counts), "image"), counted(imported.classes, "class", "classes")
    low, high = min(imported.counts), max(imported.counts)
    if skipped:
        print_message(f"shards import: {skipped}")
    if unreadable.names:
        print_message(
            f"shards import: {counted(unreadable.images, 'image')} could not be read: {text.few(unreadable.names)}"
        )
    per_class = f"{low}" if low == high else f"{low} to {high}"
    text.show(f"{count}, {classes}, {per_class} per class; to train on these images, set training.synthetic={out}")


@app.command("merge")
def merge_command(
    sets: Annotated[
        list[str], typer.Argument(metavar="DIR", help="Two or more synthetic datasets with the same classes.")
    ],
    out: OutFolder,
) -> None:
    """Merge synthetic datasets in the given order. After an interruption, run the same command to resume."""
    from syncclip.synthetic_sets.merge import merge_sets

    merged = merge_sets(sets, out)
    count, classes = counted(sum(merged.counts), "image"), counted(merged.classes, "class", "classes")
    text.show(f"{count}, {classes}, at least {min(merged.counts)} per class: {out}")


@app.command("export")
def export_command(
    folder: Folder,
    overrides: Overrides,
    *,
    to: Annotated[str, typer.Option("--to", metavar="LAYOUT", help="Layout: folder, huggingface or split-zhou.")],
    out: OutFolder,
    licence: Annotated[
        str, typer.Option("--license", help="Image licence for the dataset card (`huggingface` layout).")
    ] = "unknown",
    actors: Actors = 1,
) -> None:
    """Export a synthetic dataset as one folder per class, a Hugging Face dataset, or a split file with images."""
    from syncclip.cli import render
    from syncclip.synthesis.plan import read_plan
    from syncclip.synthetic_sets.export import export_set

    configure_storage(overrides)
    text.show(f"{counted(export_set(folder, out, to, licence, actors), 'image')}: {out}")
    if plan := read_plan(folder):
        text.show(render.origin(plan))


@app.command("pack")
def pack_command(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Dataset name, dataset path, or YAML recipe.")],
    root: Root = None,
    out: Out = None,
    resize: Annotated[
        int | None,
        typer.Option("--resize", metavar="PX", help="Maximum length of the shorter image side, in pixels."),
    ] = None,
    shots: Annotated[str, typer.Option("--shots", help="Comma-separated numbers of shots per class.")] = "1,2,4,8,16",
    seeds: Annotated[str, typer.Option("--seeds", help="Comma-separated seeds of the few-shot samples.")] = "1,2,3",
) -> None:
    """Pack a dataset's few-shot, validation and test images into shards for streaming."""
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


def _numbers(option: str, value: str) -> list[int]:
    """Parse the comma-separated integers of an option such as `--seeds 1,2,3`."""
    try:
        return [int(number) for number in value.split(",")]
    except ValueError as error:
        raise UserError(f"{option}: {value!r} is not a list of integers; use e.g. {option} 1,2,3") from error


def _recipe_of(folder: str, overrides: list[str]) -> syncclip.Recipe:
    """Load the recipe stored with a synthetic dataset, or else the default recipe, and configure storage."""
    from syncclip import storage
    from syncclip.synthetic_sets.imported import SET_RECIPE

    recipe, url = syncclip.Recipe.of_defaults(overrides), storage.join(folder, SET_RECIPE)
    storage.configure(recipe.storage.options)
    if storage.exists(url):
        recipe = syncclip.Recipe.load(url, overrides, own=False)
        storage.configure(recipe.storage.options)
    return recipe
