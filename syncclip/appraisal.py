"""How good the synthetic set of a recipe is, by the recipe's own CLIP and real pictures."""

from __future__ import annotations

import torch

from syncclip.benchmarks import load_benchmark
from syncclip.recipe import Recipe
from syncclip.settings import UserError
from syncclip.synthesis.filters import FrozenClip
from syncclip.synthesis.imported import read_set
from syncclip.synthesis.quality import SetQuality, set_quality


def appraise(recipe: Recipe, url: str) -> SetQuality:
    """Measure the set at `url` and keep the numbers beside it as stats.json.

    The real pictures are those of `evaluation.split`; a benchmark without that split has no shift.

    Args:
        recipe: names benchmark and backbone.
        url: folder or URL of the set.

    Raises:
        UserError: there is no set, or it shows other classes than the benchmark.
    """
    benchmark = load_benchmark(recipe.benchmark)
    plan = read_set(url)
    if plan is not None and list(plan.classnames) != benchmark.classnames:
        raise UserError(
            f"{url} shows {plan.classes} classes of benchmark {plan.benchmark!r}, not the {len(benchmark.classnames)} "
            f"of {benchmark.name!r}; name its benchmark with benchmark.name=NAME"
        )
    prompts = [benchmark.prompt(label) for label in range(len(benchmark.classnames))]
    clip = FrozenClip(recipe.backbone, prompts, "cuda" if torch.cuda.is_available() else "cpu")
    return set_quality(url, clip, benchmark.splits.get(recipe.evaluation.split))
