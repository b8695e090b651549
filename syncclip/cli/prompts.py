"""`syncclip prompts`: import and export learned prompts, and show their nearest words."""

from __future__ import annotations

from typing import Annotated

import typer

import syncclip
from syncclip.cli.arguments import Folder, Out, Overrides, RecipeName
from syncclip.core import text
from syncclip.runtime.progress import print_message

app = typer.Typer(help="Import and export learned prompts, and show their nearest words.")


@app.command("import")
def import_command(
    source: Annotated[
        str, typer.Argument(metavar="FILE_OR_DIR", help="Checkpoint file (model.pth.tar-N) or folder of checkpoints.")
    ],
    recipe: RecipeName,
    overrides: Overrides,
    out: Out = None,
    epoch: Annotated[
        int | None,
        typer.Option("--epoch", help="Epoch to load from a folder; default: best checkpoint if present, else newest."),
    ] = None,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Allow classes that differ from those used in training.")
    ] = False,
) -> None:
    """Import prompts trained with a method's published code; the recipe sets method, backbone and dataset."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    from syncclip.interop.imports import import_prompts

    run = import_prompts(source, loaded, out, epoch, transfer)
    for note in run.notes:
        print_message(f"note: {note}")
    text.show(f"{run.name}: {', '.join(f'{key} {value}' for key, value in run.settings.items())}; {run.source}")
    text.show(text.from_here(run.url))


@app.command("export")
def export_command(run: Folder, out: Out = None) -> None:
    """Export a run's prompts in the format of the method's published code, with a model card."""
    from syncclip.interop.exports import export_prompts

    exported = export_prompts(run, out)
    text.show(exported.card)
    text.show(exported.checkpoint or "no checkpoint: this method has no published code")


@app.command("show")
def show(
    run: Folder,
    words: Annotated[int, typer.Option("--words", min=1, help="Number of nearest words to show per vector.")] = 3,
) -> None:
    """Show the words nearest to each learned text vector, with Euclidean distances."""
    from syncclip.interop.nearest import learned_words

    headings, rows = learned_words(run, words)
    text.show(text.table(run, headings, rows))
