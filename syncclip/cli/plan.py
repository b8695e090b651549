"""`syncclip plan`: what `synth` would draw, before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from syncclip.cli.arguments import Overrides, RecipeName
from syncclip.core.text import counted, duration, size

if TYPE_CHECKING:
    from rich.table import Table

    from syncclip.recipe.recipe import Recipe
    from syncclip.synthesis.forecast import Forecast, Spread
    from syncclip.synthesis.plan import Plan
    from syncclip.synthesis.settings import CostSettings


def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    probe: Annotated[bool, typer.Option("--probe", help="Draw a few batches here to measure the rate.")] = False,
    rate: Annotated[
        float | None, typer.Option("--rate", min=1e-9, help="Finished images a second of one actor, if it is known.")
    ] = None,
) -> None:
    """Show what `synth` would draw, sample prompts of each class, and what it takes: hours, bytes, money."""
    from syncclip.core import tables
    from syncclip.recipe.recipe import Recipe
    from syncclip.sets import prepare

    loaded = Recipe.load(recipe, overrides or [])
    drawn = prepare.plan(loaded)
    tables.show(prompts_table(drawn))
    tables.show(
        f"{counted(drawn.classes, 'class', 'classes')} x {counted(drawn.images_per_class, 'image')} = "
        f"{counted(drawn.total, 'image')} in {counted(len(drawn.shards()), 'shard')} of up to {drawn.shard_size}, "
        f"drawn by {drawn.generator.pipeline}"
    )
    cost = loaded.synthesis.cost
    cost = cost if rate is None else cost.model_copy(update={"rate": rate})
    cost = measured(loaded, drawn, cost) if probe else cost
    tables.show(expected(loaded, drawn, cost))


def measured(recipe: Recipe, drawn: Plan, cost: CostSettings) -> CostSettings:
    """`cost` with what a probe on this machine says; a rate and a time that are given already stay."""
    import tempfile

    from syncclip.core import tables
    from syncclip.sets.prepare import with_assets
    from syncclip.synthesis.tuning import measure

    with tempfile.TemporaryDirectory() as folder:
        ready = with_assets(recipe, drawn, folder)
        found = measure(ready, folder, recipe.synthesis.num_gpus, recipe.storage.options)
    tables.show(
        f"measured here: {found.images:.3g} images/s of one actor, {size(round(found.image_bytes))} an image, "
        f"{100 * found.rejected:.0f} sent back for 100 finished, {found.load:.0f} s to load"
    )
    new = {"rate": found.images, "image_bytes": found.image_bytes, "load": found.load}
    return cost.model_copy(update={key: value for key, value in new.items() if getattr(cost, key) is None})


def expected(recipe: Recipe, drawn: Plan, cost: CostSettings) -> Table | str:
    """What the set takes, as a table; where no rate is known, how to give one."""
    from syncclip.core import tables
    from syncclip.synthesis.forecast import forecast

    synthesis = recipe.synthesis
    if cost.rate is None:
        return "time and money: --probe measures the rate here, --rate IMAGES_PER_SECOND gives it"
    (least, most), num_gpus = synthesis.pool.size, synthesis.num_gpus
    found = forecast(drawn, cost, synthesis.pool)
    actors = counted(most, "actor") if least == most else f"{least} to {most} actors"
    tables.show(
        f"{actors} at {cost.rate:.3g} images/s each: {duration(found.seconds)} a shard"
        + (f"; each machine is taken away {cost.preemptions:g} times an hour" if cost.preemptions else "")
    )
    return tables.table("What to expect", ["", "mean", "90 % of runs"], rows(found, cost, num_gpus > 0))


def rows(found: Forecast, cost: CostSettings, gpus: bool) -> Iterator[tuple[str, str, str]]:
    """The forecast for people, a quantity a row."""

    def row(name: str, spread: Spread, show: Callable[[float], str]) -> tuple[str, str, str]:
        return name, show(spread.mean), f"{show(spread.low)} to {show(spread.high)}"

    yield row("wall time", found.wall, duration)
    if cost.preemptions:
        yield "without preemptions", duration(found.quiet), ""
    yield row("GPU hours" if gpus else "actor hours", found.hours, "{:,.2f}".format)
    if found.money is not None:
        yield row(cost.currency, found.money, "{:,.2f}".format)
    if found.bytes is not None:
        yield "bytes", size(round(found.bytes)), ""
    if cost.preemptions:
        yield row("images thrown away", found.wasted, "{:,.0f}".format)


def prompts_table(drawn: Plan) -> Table:
    """Some prompts of each class, at least one of each strategy that it uses."""
    from syncclip.core import tables
    from syncclip.synthesis.prompts import samples

    count = max(2, len(drawn.prompts.mixture))
    rows = [
        (label, name, "\n".join(samples(drawn.prompts, drawn.template, name, drawn.images_per_class, count)))
        for label, name in enumerate(drawn.classnames)
    ]
    return tables.table(f"Prompts of dataset {drawn.dataset}", ["id", "class", "prompts"], rows)
