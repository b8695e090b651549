"""A run's test pictures shared out over the workers of a Ray cluster; the results are those of one, bit for bit."""

from __future__ import annotations

from typing import Any

import safetensors.torch

from syncclip.assembly import assemble
from syncclip.cluster import capacity, ray_session
from syncclip.recipe import Recipe
from syncclip.training.evaluation import Predictions, predict

RETRIES = 4
"""How often a part starts again after its process died or its machine was lost."""


def shared_predictions(recipe: Recipe, prompts: bytes, workers: int, pictures: int) -> Predictions:
    """What a run says about all pictures of its split, each part of them a Ray task.

    A part is a pure function of what it is given, so one that is lost with its worker is done again and says the same.
    Where the cluster has room for fewer workers, parts wait for each other.

    Args:
        recipe: of the run; its benchmark is the one that is tested on.
        prompts: of the run, as its safetensors file has them.
        workers: parts that the pictures are cut in.
        pictures: how many there are.

    Raises:
        UserError: a worker can't read what the recipe names.
    """
    import ray

    with ray_session():
        gpu = recipe.training.device != "cpu" and workers <= capacity()["GPU"] < float("inf")
        remote = ray.remote(predict_part).options(
            num_cpus=recipe.training.threads,
            num_gpus=1 if gpu or recipe.training.device == "cuda" else 0,
            max_retries=RETRIES,
        )
        spec = {"recipe": recipe.model_dump(mode="json"), "prompts": prompts, "parts": workers}
        try:
            said = ray.get([remote.remote(spec, part) for part in range(workers)])
        except ray.exceptions.RayTaskError as error:
            raise getattr(error, "cause", error) from error
    return Predictions.joined(said, pictures)


def predict_part(spec: dict[str, Any], part: int) -> Predictions:
    """One part's predictions; runs on a worker."""
    recipe = Recipe.model_validate(spec["recipe"])
    parts = assemble(recipe)
    parts.method.load_state_dict(safetensors.torch.load(spec["prompts"]))
    return predict(
        parts.method,
        parts.benchmark.split(recipe.evaluation.split),
        parts.backbone.preprocess,
        batch=recipe.evaluation.batch,
        threads=recipe.training.threads,
        candidates=parts.benchmark.only,
        part=part,
        parts=spec["parts"],
    )
