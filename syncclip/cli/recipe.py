"""`syncclip recipe`: show recipes, explain their keys, and print their JSON Schema."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated

import typer

import syncclip
from syncclip.cli.arguments import Overrides, RecipeName
from syncclip.core import text

WIDTH, LONGEST_KEY, LONGEST_DEFAULT = 80, 34, 12
"""Widths in characters of a table of keys, its first and its second column."""

app = typer.Typer(help="Show recipes, explain their keys, and print their JSON Schema.")


@app.command("ls")
def ls() -> None:
    """List the built-in recipes."""
    from syncclip.recipe.files import shipped

    for name in shipped():
        text.show(name)


@app.command("show")
def show(recipe: RecipeName, overrides: Overrides) -> None:
    """Print a recipe with its defaults, as stored with results; settings without effect by default are omitted."""
    typer.echo(text.printable(syncclip.Recipe.load(recipe, overrides).to_yaml().rstrip(), "\n"))


@app.command("explain")
def explain(
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="Recipe key (training.epochs), its last part (learning_rate) or section."),
    ],
) -> None:
    """Print the description, type and default of a key, or of all keys in a section or with the same last part."""
    from syncclip.recipe import reference

    entries = reference.explain(key)
    if all(entry.path.endswith(f".{key}") for entry in entries):
        longest = min(LONGEST_KEY, max(len(entry.path) for entry in entries))
        room = WIDTH - 10 - longest - LONGEST_DEFAULT
        rows = [
            (
                textwrap.fill(entry.path, longest),
                text.cut(entry.default, LONGEST_DEFAULT),
                textwrap.fill(entry.meaning, room),
            )
            for entry in entries
        ]
        text.show(text.table(key, ["key", "default", "description"], rows))
        return
    for entry in entries:
        default = f"; default {entry.default}" if entry.default else ""
        text.show(f"{entry.path}: {entry.kind}{default}\n    {entry.meaning}")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of recipes, for completion and validation in editors."""
    from syncclip.recipe import reference

    typer.echo(json.dumps(reference.schema(), indent=1))
