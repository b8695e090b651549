"""`syncclip plan`: preview the prompts and the expected time, size and cost of `synth`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

import syncclip
from syncclip.cli.arguments import Overrides, RecipeName
from syncclip.core import text
from syncclip.core.settings import UserError
from syncclip.core.text import counted, duration, size
from syncclip.runtime.progress import print_message
from syncclip.runtime.tempdirs import private_tempdir

if TYPE_CHECKING:
    from rich.table import Table

    from syncclip.synthesis.forecast import Forecast, Spread
    from syncclip.synthesis.plan import Plan
    from syncclip.synthesis.settings import CostSettings

SHOWN_CLASSES = 10
"""Number of classes whose prompts are shown without `--all`."""


def plan(
    recipe: RecipeName,
    overrides: Overrides,
    probe: Annotated[
        bool, typer.Option("--probe", help="Generate a few batches on this machine to measure the throughput.")
    ] = False,
    throughput: Annotated[
        float | None,
        typer.Option(
            "--throughput",
            min=1e-9,
            max=1e6,
            help="Throughput per actor in finished images/s; replaces the measured value.",
        ),
    ] = None,
    all_classes: Annotated[bool, typer.Option("--all", help="Show the prompts of all classes.")] = False,
) -> None:
    """Preview `synth`: show sample prompts for each class, and the expected time, size and cost."""
    from syncclip.datasets import suite_of

    loaded = syncclip.Recipe.load(recipe, overrides)
    if datasets := suite_of(loaded.dataset):
        recipes = [loaded.with_values({"dataset.name": dataset.name}) for dataset in datasets.values()]
        if probe or throughput is not None:
            raise UserError(
                f"--probe and --throughput require a single dataset, such as dataset.name={recipes[0].dataset.name}"
            )
        text.show(suite_table(loaded.name, [syncclip.plan(each) for each in recipes]))
        text.show(f"for prompts, time and cost: `syncclip plan {recipe} dataset.name={recipes[0].dataset.name}`")
    else:
        recipes = [loaded]
        _preview(loaded, probe, throughput, all_classes)
    _notes(recipes)


def _preview(loaded: syncclip.Recipe, probe: bool, throughput: float | None, all_classes: bool) -> None:
    from syncclip.cli import render
    from syncclip.synthesis.driver import files_of
    from syncclip.synthesis.generators.licences import licence_of

    planned = syncclip.plan(loaded)
    text.show(prompts_table(planned, planned.classes if all_classes else SHOWN_CLASSES))
    if planned.classes > SHOWN_CLASSES and not all_classes:
        text.show(f"and {counted(planned.classes - SHOWN_CLASSES, 'more class', 'more classes')}; show them with --all")
    note = " (an endpoint, which is not deterministic)" if planned.generator.endpoint else ""
    text.show(
        f"{counted(planned.classes, 'class', 'classes')} x {counted(planned.images_per_class, 'image')} = "
        f"{counted(planned.total, 'image')} in {counted(len(planned.shards()), 'shard')} "
        f"({counted(sum(1 for _ in files_of(planned)), 'object')}) of up to {planned.shard_size}, "
        f"by {planned.generator.pipeline}{note}"
    )
    text.show(render.origin(planned.model_copy(update={"licence": licence_of(planned.generator)})))
    cost = loaded.synthesis.cost
    cost = cost if throughput is None else cost.model_copy(update={"throughput": throughput})
    cost = measured(loaded, planned, cost) if probe else cost
    text.show(expected(loaded, planned, cost))


def _notes(recipes: Sequence[syncclip.Recipe]) -> None:
    from syncclip.studies.design import power_line

    if power := power_line(recipes):
        print_message(power)
    loaded = recipes[0]
    for warning in dict.fromkeys([loaded.warmup_warning, *loaded.warmup_warnings_of_configurations()]):
        if warning is not None:
            print_message(f"warning: {warning}")


def measured(recipe: syncclip.Recipe, planned: Plan, cost: CostSettings) -> CostSettings:
    """Return `cost` with missing values filled in by a probe on this machine."""
    from syncclip.synthesis.autotune import measure
    from syncclip.synthetic_sets.prepare import with_assets

    with private_tempdir() as folder:
        ready = with_assets(recipe, planned, str(folder))
        rate = measure(ready, str(folder), recipe.synthesis.num_gpus, recipe.storage.options)
    text.show(
        f"measured here: {rate.images:.3g} images/s per actor, {size(round(rate.image_bytes))} per image, "
        f"{100 * rate.rejected:.0f} rejected per 100 finished, {rate.load:.0f} s to load"
        + ("" if rate.memory is None else f", {size(rate.memory)} of GPU memory")
    )
    if rate.effect is not None:
        difference, gain = rate.effect
        text.show(f"speedup over speed=exact in fp32: {gain:.2f} x; mean pixel difference: {difference:.1f} of 255")
    elif planned.generator.speed != "exact":
        text.show("image differences were not measured because speed=exact in fp32 does not fit in memory")
    new = {"throughput": rate.images, "image_bytes": rate.image_bytes, "load": rate.load}
    return cost.model_copy(update={key: value for key, value in new.items() if getattr(cost, key) is None})


def expected(recipe: syncclip.Recipe, planned: Plan, cost: CostSettings) -> Table | str:
    """Return the expected time, size and cost as a table, or a hint if the throughput is unknown."""
    from syncclip.synthesis.forecast import forecast

    synthesis = recipe.synthesis
    if cost.throughput is None:
        return "for the expected time and cost, use --probe to measure the throughput, or set --throughput (images/s)"
    low, high = synthesis.pool.size
    prediction = forecast(planned, cost, synthesis.pool)
    if cost.budget is not None and prediction.money is not None and prediction.money.mean > cost.budget:
        print_message(
            f"warning: the expected cost exceeds synthesis.cost.budget ({cost.budget:,.2f} {cost.currency}), so "
            "`synth` would stop before the dataset is complete"
        )
    actors = counted(high, "actor") if low == high else f"{low} to {high} actors"
    text.show(
        f"{actors} at {cost.throughput:.3g} images/s each: {duration(prediction.seconds)} per shard"
        + (f"; {cost.preemptions:g} preemptions per machine-hour" if cost.preemptions else "")
    )
    return text.table("Forecast", ["", "mean", "90 % of runs"], rows(prediction, cost, synthesis.num_gpus > 0))


def rows(forecast: Forecast, cost: CostSettings, gpus: bool) -> Iterator[tuple[str, str, str]]:
    """Yield the forecast table's rows, one per quantity."""

    def row(name: str, spread: Spread, show: Callable[[float], str]) -> tuple[str, str, str]:
        low, high = show(spread.low), show(spread.high)
        return name, show(spread.mean), f"{low} to {high}" if low != high else ""

    yield row("wall time", forecast.wall, duration)
    if cost.preemptions:
        yield "without preemptions", duration(forecast.quiet), ""
    yield row("GPU hours" if gpus else "actor hours", forecast.hours, "{:,.2f}".format)
    if forecast.money is not None:
        yield row(cost.currency, forecast.money, "{:,.2f}".format)
    if forecast.bytes is not None:
        yield "bytes", size(round(forecast.bytes)), ""
    if cost.preemptions:
        yield row("images lost", forecast.wasted, "{:,.0f}".format)


def suite_table(name: str, plans: Sequence[Plan]) -> Table:
    """Return a table of the images to generate for each dataset of a suite, and their sum."""
    counts = [(planned.classes, planned.total, len(planned.shards())) for planned in plans]
    names = [*(planned.dataset for planned in plans), "all"]
    rows = [
        (dataset, *(f"{number:,}" for number in numbers))
        for dataset, numbers in zip(names, [*counts, tuple(map(sum, zip(*counts, strict=True)))], strict=True)
    ]
    return text.table(f"Images of {name}", ["dataset", "classes", "images", "shards"], rows)


def prompts_table(planned: Plan, classes: int) -> Table:
    """Return a table of sample prompts for the first classes, with at least one prompt per strategy."""
    from syncclip.synthesis.prompts.settings import samples

    count = max(2, len(planned.prompts.mixture))
    rows = [
        (label, name, "\n".join(samples(planned.prompts, planned.template, name, planned.images_per_class, count)))
        for label, name in enumerate(planned.classnames[:classes])
    ]
    return text.table(f"Prompts of dataset {planned.dataset}", ["id", "class", "prompts"], rows)
