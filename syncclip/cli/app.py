"""The command `syncclip`: each subcommand loads a recipe and calls one function of the library.

Everything heavy is imported inside the commands, so that help and refusals come at once. A user's mistake is told in
one sentence with exit status 2; `--debug` shows where it was found.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from syncclip.cli import captions, datasets, plan, prompts, reproduce, shards, status, submit
from syncclip.cli.arguments import Folder, Out, Overrides, RecipeName, Root
from syncclip.core.ray_session import cause_of
from syncclip.core.text import nearest

app = typer.Typer(
    name="syncclip",
    help="How much does synthetic data help CLIP recognise classes without real images?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
GROUPS = {"datasets": datasets.app, "shards": shards.app, "prompts": prompts.app}
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"syncclip {version('syncclip')}")
        except PackageNotFoundError:  # a working folder, as inside a submitted job
            typer.echo("syncclip (not installed)")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and Ray's own output.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """How much does synthetic data help CLIP recognise classes without real images?"""


@app.command()
def demo(overrides: Overrides = None, out: Out = None) -> None:
    """The whole road in minutes, on the embedded world: draw, train, compare, report."""
    study_command("demo", overrides, out)


@app.command()
def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A folder, a table or shards of images; or a name.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[dataset.KEY=VALUE]...", help="What the data does not tell: classnames, template ..."),
    ] = None,
    root: Root = None,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="Where the recipe goes.")] = None,
    photographs: Annotated[
        bool, typer.Option("--photographs", help="With a large CLIP and Stable Diffusion, not the embedded models.")
    ] = False,
) -> None:
    """Look at your own images and write a recipe for them that runs."""
    from syncclip.cli.init import write_first_recipe
    from syncclip.core import tables

    place = write_first_recipe(data, root, out, photographs, overrides or [])
    tables.show(f"{place}: see what it draws with `syncclip plan {place}`, then run `syncclip study {place}`")


app.command()(plan.plan)
app.command()(captions.captions)
app.command()(submit.submit)
app.command()(status.status)


@app.command()
def synth(recipe: RecipeName, overrides: Overrides = None, out: Out = None) -> None:
    """Draw the synthetic set into shards; what is there already stays, and an interrupted set is completed."""
    from syncclip import jobs
    from syncclip.cli import render
    from syncclip.core import tables
    from syncclip.recipe.recipe import Recipe

    tables.show(render.summary(jobs.synthesise(Recipe.load(recipe, overrides or []), out)))


@app.command()
def train(recipe: RecipeName, overrides: Overrides = None, out: Out = None) -> None:
    """Train one method on real and synthetic images, and evaluate it; goes on where an interrupted run stopped."""
    from syncclip import jobs
    from syncclip.cli import render
    from syncclip.core import tables
    from syncclip.recipe.recipe import Recipe

    run = jobs.train(Recipe.load(recipe, overrides or []), out)
    tables.show(render.results(run.results, f"{run.name}: accuracy on {run.split} images, %"))
    tables.show(run.url)


@app.command()
def evaluate(
    run: Folder,
    overrides: Overrides = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="Another dataset, over whose classes to test.")
    ] = None,
    root: Root = None,
) -> None:
    """Evaluate a trained run in one pass over the test images, by every protocol; also on other data."""
    from syncclip import jobs
    from syncclip.cli import render
    from syncclip.core import tables

    found = jobs.evaluate(run, overrides or [], dataset, root)
    on = f" of {dataset}" if dataset else ""
    tables.show(render.results(found.results, f"{found.name}: accuracy on {found.split} images{on}, %"))


@app.command("study")
def study_command(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = None,
    status: Annotated[bool, typer.Option("--status", help="Only tell how far it is, from anywhere.")] = False,
) -> None:
    """Run the grid method x data x images per class x seed, fit its curve, and write the report."""
    from syncclip import storage
    from syncclip.cli import inspect
    from syncclip.core import tables
    from syncclip.recipe.recipe import Recipe
    from syncclip.reports import report
    from syncclip.studies.run import folder_of, study

    loaded = Recipe.load(recipe, overrides or [])
    if status:
        storage.configure(loaded.storage.options)
        tables.show("\n".join(inspect.study_status(folder_of(loaded, out))))
        return
    done = study(loaded, out)
    if len(done.table):
        tables.show(f"report: {report(done.url)}")
    done.check()


app.command()(reproduce.reproduce)


@app.command()
def choose(recipe: RecipeName, overrides: Overrides = None, out: Out = None) -> None:
    """Choose each study arm's settings among its candidates, on validation images only."""
    from syncclip.core import tables
    from syncclip.recipe.recipe import Recipe
    from syncclip.studies import choose as choosing

    record = choosing.choose(Recipe.load(recipe, overrides or []), out).record
    rows = [
        (arm, "; ".join(f"{key} = {value}" for key, value in found["chosen"].items()), found[record["metric"]])
        for arm, found in record["arms"].items()
    ]
    tables.show(tables.table("Chosen on validation images", ["arm", "values", f"{record['metric']}, %"], rows))


@app.command("report")
def report_command(folder: Folder) -> None:
    """Write the report of a study, or of a single run, as one self-contained HTML page."""
    from syncclip.core import tables
    from syncclip.reports import write_report

    done = write_report(folder)
    tables.show(done.table)
    tables.show(done.url)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 done, 1 broken data or a defect, 2 a user's mistake, 130 interrupted."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the command; returns the exit status. `--debug` may stand anywhere."""
    if "--debug" in arguments:
        arguments = [argument for argument in arguments if argument != "--debug"]
        os.environ["SYNCCLIP_DEBUG"] = "1"
    debug = os.environ.get("SYNCCLIP_DEBUG", "") not in ("", "0")
    try:
        return app(arguments, standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted; the same command goes on where it stopped")
        return 130
    except Exception as error:
        told = sentence(error)
        if told is None or debug:
            raise
        _say(told)
        return 2


def _say(sentence: str) -> None:
    print(f"syncclip: {sentence}", file=sys.stderr, flush=True)


def sentence(error: BaseException) -> str | None:
    """A user's mistake as one sentence; None for a defect, whose traceback is worth more than any sentence."""
    if hasattr(error, "format_message"):  # typer's own: an unknown command, a missing argument
        text = str(error.format_message()).rstrip(".")
        if text.startswith("No such command"):
            group = getattr(getattr(error, "ctx", None), "info_name", None)
            return _no_such_command(re.split(r"[\"']", text)[1], group)
        return f"{text[:1].lower()}{text[1:]}; see `syncclip --help`" if text else "give a command, such as `demo`"
    error = cause_of(error)
    if isinstance(error, ValueError | FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError):
        return " ".join(str(error).split())
    return None


def _no_such_command(name: str, among: str | None = None) -> str:
    """The nearest command; of those with the same name, the one of the group `among`."""
    commands = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    for group, members in GROUPS.items():
        commands += [group, *(f"{group} {command.name}" for command in members.registered_commands)]
    words: dict[str, str] = {}
    for command in sorted(commands, key=lambda command: not command.startswith(f"{among} ")):
        words.setdefault(command.rpartition(" ")[2], command)
    near = nearest(name, words)
    hint = f"did you mean {words[near]!r}?" if near else f"there are {', '.join(sorted(commands))}"
    return f"there is no command {name!r}; {hint}"
