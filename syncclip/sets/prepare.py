"""syncclip.sets.prepare"""

from __future__ import annotations

from syncclip import storage
from syncclip.datasets import load_benchmark
from syncclip.recipe.recipe import Recipe, shots_of
from syncclip.shards.reader import ImageSet
from syncclip.synthesis.filters import check_safety, pinned
from syncclip.synthesis.generators import check_scheduler
from syncclip.synthesis.plan import Plan, draft, settled
from syncclip.synthesis.prompts.files import with_sentences
from syncclip.synthesis.references import digests, lay, real_pictures


def plan(recipe: Recipe) -> Plan:
    """What `synthesise` would draw: class, prompt and seed of every picture. Nothing is drawn or written.

    Raises:
        UserError: the benchmark isn't there, or can't be drawn like this.
    """
    generator = recipe.synthesis.generator
    check_scheduler(generator)
    check_safety(recipe.synthesis.filters, generator)
    storage.configure(recipe.storage.options)
    benchmark = load_benchmark(recipe.benchmark)
    guides = digests(real_pictures(benchmark, *shots_of(recipe))) if generator.guide else ()
    return draft(
        recipe.synthesis.model_copy(update={"prompts": with_sentences(recipe.synthesis.prompts)}),
        benchmark=benchmark.name,
        classnames=benchmark.classnames,
        template=benchmark.template,
        backbone=recipe.backbone,
        guides=guides,
    )


def with_material(recipe: Recipe, drawn: Plan, url: str) -> Plan:
    """The plan with all that it needs laid into the set's folder: real pictures to start from, filters' heads, features
    of test pictures.

    Raises:
        UserError: the folder holds another plan's set, or something is missing or isn't what the set was begun with.
    """
    agreed = settled(drawn, url)
    if agreed.guides:
        benchmark = load_benchmark(recipe.benchmark)
        lay(real_pictures(benchmark, *shots_of(recipe)), benchmark, url)

    def test_pictures() -> ImageSet:
        return load_benchmark(recipe.benchmark).split("test")

    return drawn.model_copy(update={"filters": pinned(agreed.filters, url, test_pictures)})
