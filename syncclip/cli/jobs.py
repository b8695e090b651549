"""Commands that run an experiment: each loads a recipe, makes one library call, and prints the result.

Recipe errors appear immediately because the rest of the library is imported after the recipe is loaded.
"""

from __future__ import annotations

import shlex
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

import syncclip
from syncclip.cli.arguments import (
    REPEATED,
    Datasets,
    Folder,
    Labels,
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
from syncclip.core.settings import UserError
from syncclip.core.text import counted
from syncclip.runtime.progress import print_message

if TYPE_CHECKING:
    from syncclip.jobs import Run


class JobName(str, Enum):
    """Commands that `submit` can run on a cluster."""

    synth = "synth"
    train = "train"
    study = "study"
    reproduce = "reproduce"
    classify = "classify"


class FigureFormat(str, Enum):
    """File formats of `report --figures`."""

    pdf = "pdf"
    svg = "svg"


def demo(overrides: Overrides, out: Out = None) -> None:
    """Run the demo end to end in minutes with the bundled models: generate, train, compare, report."""
    study("demo", overrides, out)
    text.show("next: `syncclip assess travel` shows how well CLIP knows the class names, which decides the gain")


def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder, table or shards of images, or a dataset name.")],
    overrides: Annotated[
        list[str],
        typer.Argument(
            **REPEATED,
            metavar="dataset.KEY=VALUE",
            callback=with_storage,
            help="Dataset settings that the data does not define, such as dataset.classnames or dataset.template.",
        ),
    ],
    root: Root = None,
    out: OutFile = None,
    photographs: Annotated[
        bool,
        typer.Option(
            "--photographs", help="Use a large CLIP model and Stable Diffusion instead of the bundled models."
        ),
    ] = False,
) -> None:
    """Inspect your own images and write a runnable recipe for them."""
    from syncclip.cli.assess import first_lines
    from syncclip.cli.init import write_first_recipe

    path = write_first_recipe(data, root, out, photographs, overrides)
    recipe = syncclip.Recipe.load(path)
    from syncclip.studies.grid import cells

    runs = counted(len(cells(recipe.study)), "training run")
    text.show(
        f"{path}: preview its prompts with `syncclip plan {path}` (and the time for the images with --probe), then run "
        f"`syncclip study {path}` ({runs})"
    )
    for line in first_lines(recipe, path):
        text.show(line)


def captions(
    recipe: RecipeName,
    overrides: Overrides,
    out: OutFile = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Number of captions to print per class.")] = 3,
) -> None:
    """Generate captions for each class with the recipe's language model; existing captions are kept."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    from syncclip import jobs

    for url, written in jobs.captions(loaded, out).items():
        rows = [(name, caption) for name, captions in written.sentences.items() for caption in captions[:show]]
        if rows:
            text.show(text.table(f"Captions by {written.writer.model}", ["class", "caption"], rows))
        count = counted(sum(map(len, written.sentences.values())), "caption")
        text.show(f"{count} of {counted(len(written.sentences), 'class', 'classes')}: {url}")


def synth(
    recipe: RecipeName,
    overrides: Overrides,
    out: Out = None,
    shards: Annotated[
        str | None,
        typer.Option(
            "--shards",
            metavar="FIRST:END|PART/PARTS",
            help="Generate only these shards, such as 0:50000 or 3/8; other jobs generate the others.",
        ),
    ] = None,
) -> None:
    """Generate a synthetic dataset as shards; existing shards are kept, so an interrupted job resumes."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    from syncclip import jobs
    from syncclip.cli import render

    if (summary := jobs.synth(loaded, out, shards=shards)) is not None:
        text.show(render.summary(summary))


def train(recipe: RecipeName, overrides: Overrides, out: Out = None) -> None:
    """Train one method on real and synthetic images, and evaluate it; an interrupted run resumes."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    from syncclip import jobs

    run = jobs.train(loaded, out)
    _show_results(run)
    text.show(text.from_here(run.url))


def evaluate(
    run: Folder,
    overrides: Overrides,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="Evaluate on another dataset, with that dataset's classes."),
    ] = None,
    root: Root = None,
) -> None:
    """Evaluate a trained run with all metrics, on its own test images or on another dataset."""
    from syncclip import jobs

    evaluated = jobs.evaluate(run, overrides, dataset, root)
    of = f" of {dataset}" if dataset else ""
    _show_results(evaluated, of)


def _show_results(run: Run, of: str = "") -> None:
    """Print a run's metrics beside those of its baselines, and warnings about both."""
    from syncclip.cli import render
    from syncclip.evaluation.baselines import BASELINES, baseline_warnings

    title, method = f"{run.name}: accuracy on {run.split} images{of}, %", run.results["method"]
    text.show(render.results(run.results, method, title), keys=1)
    for warning in baseline_warnings({method: run.results}, run.results[BASELINES]):
        print_message(f"warning: {warning}")


def study(
    recipe: RecipeName,
    overrides: Overrides,
    out: Out = None,
    status: Annotated[
        bool, typer.Option("--status", help="Show the progress of the study without running it; works on any machine.")
    ] = False,
) -> None:
    """Run the grid method x data x images per class x seed, fit the scaling curve, and write the report."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    from syncclip import storage
    from syncclip.cli import render
    from syncclip.cli.status import study_status
    from syncclip.reports import write_report
    from syncclip.studies import summary
    from syncclip.studies.levels import study
    from syncclip.studies.outputs import TABLES
    from syncclip.studies.run import folder_of

    if status:
        storage.configure(loaded.storage.options)
        text.show("\n".join(study_status(folder_of(loaded, out))))
        return
    done = study(loaded, out)
    if len(done.table):
        report = write_report(done.url)
        for line in () if loaded.study.pretrained else summary.baseline_lines(loaded, done.table):
            print_message(line)
        render.show_report(report)
        if not loaded.study.pretrained:
            text.show(f"all metrics: {text.from_here(storage.join(done.url, TABLES))}")
        text.show(f"report: {text.from_here(report.url)}")
    done.check()


def tune(recipe: RecipeName, overrides: Overrides, out: Out = None) -> None:
    """Tune each study configuration over its search space, on validation images only."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    from syncclip import storage
    from syncclip.cli import render
    from syncclip.recipe.overrides import as_override
    from syncclip.reports import write_report
    from syncclip.studies import tune as tuning

    done = tuning.tune(loaded, out)
    report = write_report(done.url)
    render.show_report(report)
    for configuration in done.recipe.study.configurations:
        if best := done.record["configurations"].get(configuration.name):
            values = {"training.method": configuration.method, "training.data": configuration.data}
            values |= configuration.overrides
            overrides = [as_override(key, value, syncclip.Recipe) for key, value in values.items()]
            text.show(f"{configuration.name}: {shlex.join(overrides)}")
            for key, edge in tuning.at_edge(loaded, best).items():
                print_message(
                    f"warning: {configuration.name}: {key}={best['selected'][key]} is the {edge} value that was tried; "
                    "add values beyond it, and run the search with a different --out"
                )
    text.show(f"report: {text.from_here(report.url)}")
    text.show(f"next: syncclip study {shlex.quote(storage.join(done.url, 'recipe.yaml'))}")


def report(
    folder: Folder,
    figures: Annotated[
        FigureFormat | None,
        typer.Option("--figures", metavar="pdf|svg", help="Also write the scaling curves as figures."),
    ] = None,
    latex: Annotated[bool, typer.Option("--latex", help="Also write a LaTeX table (booktabs) and a CSV file.")] = False,
) -> None:
    """Write the report of a study, run, synthetic dataset or search as one self-contained HTML page."""
    from syncclip.cli import render
    from syncclip.reports import write_report

    done = write_report(folder)
    render.show_report(done)
    text.show(text.from_here(done.url))
    if figures or latex:
        from syncclip.reports.paper import write_paper

        for path in write_paper(done.url.rpartition("/")[0], figures.value if figures else None, latex):
            text.show(path)


def reproduce(
    protocol: Annotated[
        str,
        typer.Argument(
            metavar="PROTOCOL",
            help="base-to-novel, open-vocabulary, few-shot, cross-dataset, domain-generalisation, losses, data-use or "
            "growing.",
        ),
    ],
    root: Annotated[str, typer.Option("--root", metavar="DIR", help="Folder with all datasets, in CoOp's layout.")],
    overrides: Overrides,
    dataset: Datasets,
    method: Methods,
    synthetic: Synthetic = None,
    out: Out = None,
) -> None:
    """Run a protocol from the literature on all its datasets, and compare its results with published results."""
    from syncclip.protocols.run import Request, reproduce

    done = reproduce(Request(protocol, root, dataset, method, out, synthetic, overrides))
    text.show(f"report: {text.from_here(done.page)}")


def submit(
    job: Annotated[JobName, typer.Argument(metavar="synth|train|study|reproduce|classify", help="Command to run.")],
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="Built-in recipe or YAML file (`reproduce`: protocol; `classify`: run and folder of shards).",
        ),
    ],
    overrides: Overrides,
    dataset: Datasets,
    method: Methods,
    labels: Labels,
    out: Out = None,
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", metavar="URL", help="Dashboard URL, http://HEAD:8265."),
    ] = "http://127.0.0.1:8265",
    wait: Annotated[bool, typer.Option(help="Follow the log until the job ends.")] = True,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared", help="Declare that this machine's paths are valid on every node (shared file system)."
        ),
    ] = False,
    root: Root = None,
    synthetic: Synthetic = None,
    actors: Annotated[int | None, typer.Option("--actors", min=1, help="Number of Ray actors for `classify`.")] = None,
    num_gpus: Annotated[float, typer.Option("--num-gpus", min=0, help="GPUs per actor for `classify`.")] = 0.0,
) -> None:
    """Run a command on a Ray cluster; submitting the same command again joins or resumes its job."""
    from syncclip.cli import submit as cluster

    if job is JobName.reproduce:
        if root is None:
            raise UserError("missing option '--root': reproduce requires the folder with all datasets")
        from syncclip.protocols.run import Request

        build = partial(cluster.reproduce_job, Request(recipe, root, dataset, method, out, synthetic, overrides))
    elif root or dataset or method or synthetic:
        raise UserError(
            f"--root, --dataset, --method and --synthetic only apply to reproduce; for {job.value}, use recipe settings"
        )
    elif job is JobName.classify:
        if len(overrides) != 1:
            raise UserError("submit classify requires two paths or URLs: a run and a folder of shards")
        build = partial(cluster.classify_job, recipe, overrides[0], out, actors or 1, num_gpus, labels)
    elif actors or num_gpus or labels:
        raise UserError(
            f"--actors, --num-gpus and --label only apply to classify; for {job.value}, use recipe settings"
        )
    else:
        build = partial(cluster.recipe_job, job.value, syncclip.Recipe.load(recipe, overrides), out)
    client = cluster.connect(address)
    name, joined = cluster.start(client, build(shared=shared or cluster.is_local_cluster(address)))
    print_message(f"job {name} is {'already running' if joined else 'submitted'} at {address}")
    stop = f"`ray job stop {name} --address {address}` stops it"
    if not wait:
        print_message(f"the job continues; {stop}")
    elif status := cluster.follow(client, name, stop):
        raise typer.Exit(status)
