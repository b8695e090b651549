"""The commands that run an experiment: each loads a recipe, makes one call of the library, and prints what it found.

The recipe is loaded before the rest of the library, so that a mistake in it is refused at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

import syncclip
from syncclip.cli.arguments import (
    SEVERAL,
    Datasets,
    Folder,
    Methods,
    Out,
    OutFile,
    Overrides,
    RecipeName,
    Root,
    Synthetic,
    with_storage,
)
from syncclip.core import text
from syncclip.core.text import counted


def demo(overrides: Overrides, out: Out = None) -> None:
    """End to end in minutes with the embedded models: generate, train, compare, report."""
    study("demo", overrides, out)


def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder, a table or shards of images; or a name.")],
    overrides: Annotated[
        list[str],
        typer.Argument(
            **SEVERAL,
            metavar="dataset.KEY=VALUE",
            callback=with_storage,
            help="What the data does not contain: dataset.classnames, dataset.template ...",
        ),
    ],
    root: Root = None,
    out: OutFile = None,
    photographs: Annotated[
        bool, typer.Option("--photographs", help="With a large CLIP and Stable Diffusion, not the embedded models.")
    ] = False,
) -> None:
    """Look at your own images and write a recipe for them that runs."""
    from syncclip.cli.init import write_first_recipe

    place = write_first_recipe(data, root, out, photographs, overrides)
    text.show(f"{place}: see its prompts with `syncclip plan {place}`, then run `syncclip study {place}`")


def captions(
    recipe: RecipeName,
    overrides: Overrides,
    out: OutFile = None,
    show: Annotated[int, typer.Option("--show", min=0, help="How many to print of each class.")] = 3,
) -> None:
    """Let the recipe's language model write captions of each class into a file; existing ones are kept."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    from syncclip import jobs

    for url, written in jobs.captions(loaded, out).items():
        rows = [(name, caption) for name, found in written.sentences.items() for caption in found[:show]]
        if rows:
            text.show(text.table(f"Captions by {written.writer.model}", ["class", "caption"], rows))
        count = counted(sum(map(len, written.sentences.values())), "caption")
        text.show(f"{count} of {counted(len(written.sentences), 'class', 'classes')}: {url}")


def synth(recipe: RecipeName, overrides: Overrides, out: Out = None) -> None:
    """Generate the synthetic set as shards; existing shards are kept, so an interrupted set is completed."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    from syncclip import jobs
    from syncclip.cli import render

    text.show(render.summary(jobs.synth(loaded, out)))


def train(recipe: RecipeName, overrides: Overrides, out: Out = None) -> None:
    """Train one method on real and synthetic images, and evaluate it; an interrupted run is resumed."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    from syncclip import jobs
    from syncclip.cli import render

    run = jobs.train(loaded, out)
    text.show(render.results(run.results, f"{run.name}: accuracy on {run.split} images, %"))
    text.show(run.url)


def evaluate(
    run: Folder,
    overrides: Overrides,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="Another dataset, with its own classes.")
    ] = None,
    root: Root = None,
    benchmark: Annotated[str | None, typer.Option("--benchmark", hidden=True)] = None,
) -> None:
    """Evaluate a trained run in one pass over the test images, with every metric; also on another dataset."""
    from syncclip import jobs
    from syncclip.cli import render

    name = dataset or benchmark
    found = jobs.evaluate(run, overrides, name, root)
    on = f" of {name}" if name else ""
    text.show(render.results(found.results, f"{found.name}: accuracy on {found.split} images{on}, %"))


def study(
    recipe: RecipeName,
    overrides: Overrides,
    out: Out = None,
    status: Annotated[bool, typer.Option("--status", help="Only report its progress, from anywhere.")] = False,
) -> None:
    """Run the grid method x data x images per class x seed, fit its curve, and write the report."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    from syncclip import storage
    from syncclip.cli.status import study_status
    from syncclip.reports import report
    from syncclip.studies import summary
    from syncclip.studies.run import folder_of, study

    if status:
        storage.configure(loaded.storage.options)
        text.show("\n".join(study_status(folder_of(loaded, out))))
        return
    done = study(loaded, out)
    if len(done.table):
        summary.show(loaded, done.url, done.table, done.comparisons)
        text.show(f"report: {report(done.url)}")
    done.check()


def tune(recipe: RecipeName, overrides: Overrides, out: Out = None) -> None:
    """Choose each study configuration's settings among its candidates, on validation images only."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    from syncclip.studies import tune as tuning

    record = tuning.tune(loaded, out).record
    rows = [
        (
            configuration,
            "; ".join(f"{key} = {value}" for key, value in found["selected"].items()),
            found[record["metric"]],
        )
        for configuration, found in record["configurations"].items()
    ]
    text.show(text.table("Tuned on validation images", ["configuration", "values", f"{record['metric']}, %"], rows))


def report(folder: Folder) -> None:
    """Write the report of a study, a run or a set as one self-contained HTML page."""
    from syncclip.reports import write_report

    done = write_report(folder)
    text.show(done.table)
    text.show(done.url)


def reproduce(
    protocol: Annotated[
        str,
        typer.Argument(
            metavar="PROTOCOL",
            help="base-to-novel, open-vocabulary, few-shot, cross-dataset, domain-generalisation, losses, data-use or "
            "growing.",
        ),
    ],
    root: Annotated[str, typer.Option("--root", metavar="DIR", help="The folder of all datasets, as for CoOp.")],
    overrides: Overrides,
    dataset: Datasets,
    method: Methods,
    synthetic: Synthetic = None,
    out: Out = None,
) -> None:
    """Run a protocol of the literature on all its datasets, and compare with published figures."""
    from syncclip.protocols.run import Request, reproduce

    done = reproduce(Request(protocol, root, dataset, method, out, synthetic, overrides))
    text.show(f"report: {done.page}")
