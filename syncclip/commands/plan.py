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
    """Some prompts of each class, at least one of each strategy that it uses."""
    from syncclip import tables
    from syncclip.synthesis.prompts import samples

    count = max(2, len(drawn.prompts.mixture))
    rows = [
        (label, name, "\n".join(samples(drawn.prompts, drawn.template, name, drawn.images_per_class, count)))
        for label, name in enumerate(drawn.classnames)
    ]
    return tables.table(f"Prompts of benchmark {drawn.benchmark}", ["id", "class", "prompts"], rows)
