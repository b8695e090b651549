"""`syncclip captions`: a language model's captions, written once and shown before anything is drawn from them."""

from __future__ import annotations

from typing import Annotated

import typer

from syncclip.cli.arguments import Overrides, RecipeName
from syncclip.core.text import counted


def captions(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="Where they go: a JSON file.")] = None,
    show: Annotated[int, typer.Option("--show", min=0, help="How many to show of each class.")] = 3,
) -> None:
    """Let the recipe's language model write captions of each class into a file; what is there already stays."""
    from syncclip import jobs
    from syncclip.core import tables
    from syncclip.recipe.recipe import Recipe

    for url, written in jobs.captions(Recipe.load(recipe, overrides or []), out).items():
        rows = [(name, caption) for name, found in written.sentences.items() for caption in found[:show]]
        if rows:
            tables.show(tables.table(f"Captions by {written.writer.model}", ["class", "caption"], rows))
        count = counted(sum(map(len, written.sentences.values())), "caption")
        tables.show(f"{count} of {counted(len(written.sentences), 'class', 'classes')}: {url}")
