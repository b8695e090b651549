"""Synthetic datasets generated in this process, for comparison with those of a cluster."""

from __future__ import annotations

from syncclip import storage
from syncclip.recipe.recipe import Recipe


def generate_here(recipe: Recipe, url: str) -> str:
    """Generate a recipe's dataset shard by shard without Ray, which takes longer to start; returns its URL."""
    import torch

    from syncclip.shards.index import index_set
    from syncclip.shards.writer import write_shard
    from syncclip.synthesis.filters import build_filters
    from syncclip.synthesis.generators.pipeline import Generator
    from syncclip.synthesis.generators.weights import locate
    from syncclip.synthesis.plan import write_plan
    from syncclip.synthesis.shard import begin_shard
    from syncclip.synthesis.summary import summarise
    from syncclip.synthetic_sets import prepare

    plan = prepare.plan(recipe)
    plan = write_plan(plan.model_copy(update={"weights": locate(plan.generator).fingerprint}), url)
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    generator, filters = Generator(plan.generator), build_filters(plan.filters, plan.classnames)
    for number in plan.shards():
        shard = begin_shard(plan, number, generator, filters)()
        write_shard(url, number, shard.samples, shard.rejects, owner=plan.owner)
    torch.set_num_threads(threads)
    index_set(url, plan.owner)
    summarise(plan, url)
    storage.write_contents(url, plan.owner)
    return url
