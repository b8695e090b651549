"""Image features of both domains before and after training, for the domain shift and the 2-D feature projection."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pandas as pd
import torch

from syncclip.clip.prompted import PromptedClip
from syncclip.core.balance import balanced_rows
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


Sample = tuple[Rows, Rows, torch.Tensor]
"""Sampled rows of one domain's dataset, with their labels and preprocessed images."""


def feature_map(
    recipe: Recipe, run: RunFolder, synthetic_url: str, limit: int
) -> tuple[dict[str, Shift], pd.DataFrame]:
    """Measure the domain shift and project features to 2-D, with frozen CLIP and with the run's trained model.

    Args:
        recipe: recipe of the run. Images are encoded with the prompts of their domain.
        synthetic_url: URL of the synthetic dataset; the run was trained on its first images of each class.
        limit: maximum number of images per domain, evenly distributed over classes.

    Returns:
        Domain shift by model ("frozen" or "trained"), and the 2-D feature projection as a table with columns model,
        domain, label, row, x and y.
    """
    parts = build_parts(recipe)
    load_prompts(run, parts.method)
    frozen = build_method("zeroshot", PromptedClip(parts.backbone), parts.dataset)
    real, synthetic = parts.dataset.split(recipe.evaluation.split), ShardSet(synthetic_url)
    samples = {REAL: _sample(real, limit, parts), SYNTHETIC: _sample(synthetic, limit, parts)}
    shifts, tables = {}, []
    with deterministic(recipe.training.threads), torch.inference_mode():
        for model, method in (("frozen", frozen), ("trained", parts.method)):
            size = recipe.evaluation.batch_size
            features = [encode(method, images, domain, size) for domain, (_, _, images) in samples.items()]
            shifts[model] = measure(features[0], samples[REAL][1], features[1], samples[SYNTHETIC][1])
            for (domain, (rows, labels, _)), xy in zip(samples.items(), project(*features), strict=True):
                columns = {"label": labels, "row": rows, "x": xy[:, 0], "y": xy[:, 1]}
                tables.append(pd.DataFrame({"model": model, "domain": DOMAINS[domain], **columns}))
    return shifts, pd.concat(tables, ignore_index=True)


def encode(method: Method, images: torch.Tensor, domain: int, batch: int) -> Floats:
    """Return the unnormalised features (N, D) of preprocessed images (N, 3, H, W) of one domain."""
    batches = []
    for first in range(0, len(images), batch):
        pixels = images[first : first + batch]
        domains = torch.full((len(pixels),), domain, device=method.clip.device)
        batches.append(method.image_features(pixels.to(method.clip.device), domains).double().cpu().numpy())
    return np.concatenate(batches)


def _sample(images: ImageSet, limit: int, parts: RunParts) -> Sample:
    pixels = {}
    for row in balanced_rows(images.labels, limit).tolist():
        with suppress(UserError):  # unreadable images are skipped
            pixels[row] = parts.backbone.preprocess(images.image(row))
    if not pixels:
        raise UserError(
            "the domain shift requires real and synthetic images, but all sampled images of one domain are unreadable; "
            "check the datasets with `syncclip datasets check` and `syncclip shards verify`"
        )
    rows = np.array(list(pixels), dtype=np.int64)
    return rows, images.labels[rows], torch.stack(list(pixels.values()))
