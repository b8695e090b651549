"""`syncclip recipe`: show a whole recipe, explain its keys, and write their schema for editors."""

from __future__ import annotations

import json
from typing import Annotated

import typer

import syncclip
from syncclip.cli.arguments import Overrides, RecipeName
from syncclip.core import text

app = typer.Typer(help="Show a whole recipe, explain its keys, and print their schema for editors.")


@app.command("ls")
def ls() -> None:
    """List the recipes that come with the package."""
    from syncclip.recipe.files import shipped

    for name in shipped():
        text.show(name)


@app.command("show")
def show(recipe: RecipeName, overrides: Overrides) -> None:
    """Print a recipe with every default filled in, as it would be stored beside results."""
    typer.echo(text.printable(syncclip.Recipe.load(recipe, overrides).to_yaml().rstrip(), "\n"))


@app.command("explain")
def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Such as training.epochs, or a section.")],
) -> None:
    """Say what a key means, what it may be and what it is by default; of a section, all of its keys."""
    from syncclip.recipe import reference

    for one in reference.explain(key):
        default = f"; default {one.default}" if one.default else ""
        text.show(f"{one.path}: {one.kind}{default}\n    {one.meaning}")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of recipes, with which editors complete and check them."""
    from syncclip.recipe import reference

    typer.echo(json.dumps(reference.schema(), indent=1))
