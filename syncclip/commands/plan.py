"""`syncclip plan`: what `synth` would draw, before anything is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncclip.commands.arguments import Overrides, RecipeName

if TYPE_CHECKING:
    from rich.table import Table

    from syncclip.synthesis.plan import Plan


def plan(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Show what `synth` would draw: pictures, shards, and sample prompts of each class."""
    from syncclip import jobs, tables
    from syncclip.recipe import Recipe

    drawn = jobs.plan(Recipe.load(recipe, overrides or []))
    tables.show(prompts_table(drawn))
    tables.show(
        f"{drawn.classes} classes x {drawn.images_per_class} images = {drawn.total:,} images in {len(drawn.shards())} "
        f"shards of up to {drawn.shard_size}, drawn by {drawn.generator.pipeline}"
    )


def prompts_table(drawn: Plan) -> Table:
    """The first prompts of each class."""
    from syncclip import tables

    rows = [
        (label, name, *(drawn.entry(label + drawn.classes * k).prompt for k in range(min(2, drawn.images_per_class))))
        for label, name in enumerate(drawn.classnames)
    ]
    headings = ["id", "class", "first prompt", "second prompt"][: len(rows[0])]
    return tables.table(f"Prompts of benchmark {drawn.benchmark}", headings, rows)
