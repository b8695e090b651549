"""`syncclip plan`: what `synth` would generate, before it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

import syncclip
from syncclip.cli.arguments import Overrides, RecipeName
from syncclip.core import text
from syncclip.core.text import counted, duration, size
from syncclip.runtime.progress import say
from syncclip.runtime.tempdirs import scratch_folder

if TYPE_CHECKING:
    from rich.table import Table

    from syncclip.synthesis.forecast import Forecast, Spread
    from syncclip.synthesis.plan import Plan
    from syncclip.synthesis.settings import CostSettings

SHOWN = 10
"""Classes whose prompts are shown without `--all`."""


def plan(
    recipe: RecipeName,
    overrides: Overrides,
    probe: Annotated[
        bool, typer.Option("--probe", help="Generate a few batches here to measure the throughput.")
    ] = False,
    throughput: Annotated[
        float | None,
        typer.Option("--throughput", min=1e-9, max=1e6, help="Finished images per second of one actor, if known."),
    ] = None,
    all_classes: Annotated[
        bool, typer.Option("--all", help="Show the prompts of every class, not of the first ten.")
    ] = False,
) -> None:
    """Show what `synth` would generate: sample prompts of each class, and the expected hours, bytes and money."""
    loaded = syncclip.Recipe.load(recipe, overrides)
    planned = syncclip.plan(loaded)
    text.show(prompts_table(planned, planned.classes if all_classes else SHOWN))
    if planned.classes > SHOWN and not all_classes:
        text.show(f"and {counted(planned.classes - SHOWN, 'more class', 'more classes')}, which --all shows")
    unsure = ", an endpoint, which may answer with other images when it is asked again" * planned.generator.endpoint
    text.show(
        f"{counted(planned.classes, 'class', 'classes')} x {counted(planned.images_per_class, 'image')} = "
        f"{counted(planned.total, 'image')} in {counted(len(planned.shards()), 'shard')} of up to "
        f"{planned.shard_size}, by {planned.generator.pipeline}{unsure}"
    )
    cost = loaded.synthesis.cost
    cost = cost if throughput is None else cost.model_copy(update={"throughput": throughput})
    cost = measured(loaded, planned, cost) if probe else cost
    text.show(expected(loaded, planned, cost))
    for warning in dict.fromkeys([loaded.warmup_warning, *loaded.warmup_warnings_of_configurations()]):
        if warning is not None:
            say(f"warning: {warning}")


def measured(recipe: syncclip.Recipe, planned: Plan, cost: CostSettings) -> CostSettings:
    """`cost` with what a probe on this machine measures; values that are given already are kept."""

    from syncclip.synthesis.autotune import measure
    from syncclip.synthetic_sets.prepare import with_assets

    with scratch_folder() as folder:
        ready = with_assets(recipe, planned, str(folder))
        found = measure(ready, str(folder), recipe.synthesis.num_gpus, recipe.storage.options)
    text.show(
        f"measured here: {found.images:.3g} images/s of one actor, {size(round(found.image_bytes))} an image, "
        f"{100 * found.rejected:.0f} rejected for 100 finished, {found.load:.0f} s to load"
        + ("" if found.memory is None else f", {size(found.memory)} of the GPU's memory")
    )
    if found.effect is not None:
        difference, gain = found.effect
        text.show(f"{gain:.2f} x the rate of exact in fp32, from whose images these differ by {difference:.1f} of 255")
    elif planned.generator.speed != "exact":
        text.show("exact in fp32 doesn't fit into memory here: how much images differ from its was not measured")
    new = {"throughput": found.images, "image_bytes": found.image_bytes, "load": found.load}
    return cost.model_copy(update={key: value for key, value in new.items() if getattr(cost, key) is None})


def expected(recipe: syncclip.Recipe, planned: Plan, cost: CostSettings) -> Table | str:
    """What the set is expected to take, as a table; where no rate is known, how to give one."""
    from syncclip.synthesis.forecast import forecast

    synthesis = recipe.synthesis
    if cost.throughput is None:
        return "for time and cost, use --probe (measure the throughput here) or --throughput (images/s)"
    least, most = synthesis.pool.size
    found = forecast(planned, cost, synthesis.pool)
    actors = counted(most, "actor") if least == most else f"{least} to {most} actors"
    text.show(
        f"{actors} at {cost.throughput:.3g} images/s each: {duration(found.seconds)} a shard"
        + (f"; each machine is taken away {cost.preemptions:g} times an hour" if cost.preemptions else "")
    )
    return text.table("What to expect", ["", "mean", "90 % of runs"], rows(found, cost, synthesis.num_gpus > 0))


def rows(found: Forecast, cost: CostSettings, gpus: bool) -> Iterator[tuple[str, str, str]]:
    """The rows of the table, one for each quantity."""

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
        yield row("images lost", found.wasted, "{:,.0f}".format)


def prompts_table(planned: Plan, classes: int) -> Table:
    """Some prompts of each of the first classes, at least one of each strategy that it uses."""
    from syncclip.synthesis.prompts.settings import samples

    count = max(2, len(planned.prompts.mixture))
    rows = [
        (label, name, "\n".join(samples(planned.prompts, planned.template, name, planned.images_per_class, count)))
        for label, name in enumerate(planned.classnames[:classes])
    ]
    return text.table(f"Prompts of dataset {planned.dataset}", ["id", "class", "prompts"], rows)
