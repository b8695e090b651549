"""A recipe's synthetic set, drawn in this process: what a cluster's set is compared with."""

from __future__ import annotations

from syncclip import storage
from syncclip.recipe.recipe import Recipe


def generate_here(recipe: Recipe, url: str) -> str:
    """Draw the set shard after shard, without Ray, which takes longer to start than a tiny set to draw."""
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
    for shard in plan.shards():
        made = begin_shard(plan, shard, generator, filters)()
        write_shard(url, shard, made.samples, made.rejects, owner=plan.owner)
    torch.set_num_threads(threads)
    index_set(url, plan.owner)
    summarise(plan, url)
    storage.write_contents(url, plan.owner)
    return url
