"""Features of real and synthetic images, before and after training: from which the shift and its map are made."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from syncclip.clip.prompted import PromptedClip
from syncclip.core.order import evenly
from syncclip.core.settings import UserError
from syncclip.methods import Method, build_method
from syncclip.recipe.recipe import Recipe
from syncclip.runs.build import RunParts, build_parts
from syncclip.runtime.determinism import deterministic
from syncclip.shards.index import Rows
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.stream.mixed import REAL, SYNTHETIC
from syncclip.studies.statistics.bootstrap import Floats
from syncclip.synthetic_sets.shift import Shift, measure, project
from syncclip.training.loop import load_prompts
from syncclip.training.run_folder import RunFolder

DOMAINS = {REAL: "real", SYNTHETIC: "synthetic"}


@dataclass(frozen=True)
class ChosenImages:
    """Some images of one domain: their rows in the set, their classes, and the preprocessed images."""

    rows: Rows
    labels: Rows
    images: torch.Tensor


def feature_map(
    recipe: Recipe, run: RunFolder, synthetic_url: str, limit: int
) -> tuple[dict[str, Shift], pd.DataFrame]:
    """Measure and map both domains under the frozen CLIP ("frozen") and under a trained run ("trained").

    Under the trained one, real images get the prompts of real images and synthetic ones those of synthetic
    images, where the method distinguishes them.

    Args:
        recipe: of the run.
        run: the finished run.
        synthetic_url: the set; the images that the run may have learnt from come first in it.
        limit: images of each domain, the same number of each class as far as they go.

    Returns:
        The shift under each model, and the map: model, domain, label, row, x, y.
    """
    parts = build_parts(recipe)
    load_prompts(run, parts.method)
    frozen = build_method("zeroshot", PromptedClip(parts.backbone), parts.dataset)
    real, synthetic = parts.dataset.split(recipe.evaluation.split), ShardSet(synthetic_url)
    samples = {REAL: _sample(real, limit, parts), SYNTHETIC: _sample(synthetic, limit, parts)}
    shifts, tables = {}, []
    with deterministic(recipe.training.threads), torch.inference_mode():
        for model, method in (("frozen", frozen), ("trained", parts.method)):
            features = {domain: _features(method, sample, domain, recipe) for domain, sample in samples.items()}
            shifts[model] = measure(
                features[REAL], samples[REAL].labels, features[SYNTHETIC], samples[SYNTHETIC].labels
            )
            places = project(features[REAL], features[SYNTHETIC])
            for (domain, sample), place in zip(samples.items(), places, strict=True):
                columns = {"label": sample.labels, "row": sample.rows, "x": place[:, 0], "y": place[:, 1]}
                tables.append(pd.DataFrame({"model": model, "domain": DOMAINS[domain], **columns}))
    return shifts, pd.concat(tables, ignore_index=True)


def _features(method: Method, sample: ChosenImages, domain: int, recipe: Recipe) -> Floats:
    size, device = recipe.evaluation.batch_size, method.clip.device
    found = []
    for first in range(0, len(sample.images), size):
        images = sample.images[first : first + size].to(device)
        domains = torch.full((len(images),), domain, device=device)
        found.append(method.image_features(images, domains).double().cpu().numpy())
    return np.concatenate(found)


def _sample(images: ImageSet, limit: int, parts: RunParts) -> ChosenImages:
    found = {}
    for row in evenly(images.labels, limit).tolist():
        with suppress(UserError):  # one image more or less makes no difference to a map
            found[row] = parts.backbone.preprocess(images.image(row))
    if not found:
        raise UserError("no image of one of the domains can be read, so their shift can't be measured")
    rows = np.array(list(found), dtype=np.int64)
    return ChosenImages(rows, images.labels[rows], torch.stack(list(found.values())))
