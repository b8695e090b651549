"""Evaluate a finished run on its own dataset, and its prompts on other datasets (transfer).

The images can be split across Ray workers; the results are bit-identical to those of a single process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import safetensors.torch

from syncclip import storage
from syncclip.core.custom_code import custom_code_reported
from syncclip.core.session import Session, current
from syncclip.datasets import DatasetSettings
from syncclip.evaluation.baselines import BASELINES, chance, scores_of
from syncclip.evaluation.predict import PREDICTIONS, RESULTS, Predictions, read_results, results, save_evaluation
from syncclip.methods.settings import TestDomain
from syncclip.recipe.recipe import Recipe
from syncclip.runs.build import (
    ModelCache,
    RunParts,
    build_parts,
    calibrated,
    dataset_key,
    predictions,
    zero_shot_baseline,
)
from syncclip.runs.classes import CLASSES, carry_over, describe, read_classes
from syncclip.runs.data import require_inputs
from syncclip.runtime.progress import print_message
from syncclip.runtime.ray_session import capacity, ray_session, unwrapped
from syncclip.storage.documents import CONTENTS
from syncclip.training.loop import load_prompts
from syncclip.training.run_folder import PROMPTS, RunFolder
from syncclip.training.trackers import show_results

TRANSFER = "transfer"
"""Subfolder of a run folder for results on other datasets."""

TEST_DOMAINS = "test_domains"
"""Subfolder of a run folder for results with the prompts of the domains in `evaluation.test_domains`."""

RETRIES = 4
"""Maximum number of retries of a Ray task whose process or machine was lost."""


def scored(
    recipe: Recipe, folder: RunFolder, cache: ModelCache | None = None, workers: int | None = None
) -> dict[str, Any]:
    """Return the results of a finished run on its dataset; evaluate the run if the results are missing or outdated.

    Results are outdated if they were computed with different evaluation settings. With `evaluation.test_domains`, one
    pass over the images gives the results for all domains. The run is also evaluated on each
    dataset in `evaluation.transfer` that has no results.

    Args:
        workers: number of workers across which the images are split; None: evaluate in this process.
    """
    numbers = results_of(recipe, folder)
    if numbers is None or missing_domains(recipe, folder):
        numbers = score(recipe, folder, cache, workers)
    for name in missing_transfers(recipe, folder):
        transfer(recipe, folder, DatasetSettings(name=name, root=recipe.dataset.root), cache, workers)
    return numbers


def score(
    recipe: Recipe, folder: RunFolder, cache: ModelCache | None = None, workers: int | None = None
) -> dict[str, Any]:
    """Evaluate a finished run on its own dataset, and write the results to the run folder."""
    parts = build_parts(recipe, cache)
    require_inputs(recipe, folder, recipe.evaluation.split, *(["val"] if recipe.evaluation.calibrate else []))
    load_prompts(folder, parts.method)
    parts = calibrated(recipe, parts)
    classes = describe(recipe, parts.dataset, parts.backbone, parts.temperature)
    storage.write_document(folder.path(CLASSES), classes, folder.owner)
    return _evaluate(recipe, folder, parts, None, workers, cache)


def transfer(
    recipe: Recipe,
    folder: RunFolder,
    other: DatasetSettings,
    cache: ModelCache | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Evaluate a finished run on a different dataset, and write the results to `transfer/<name>` in the run folder.

    Raises:
        UserError: the learned parameters are class-specific, or the dataset is missing.
    """
    transferred = recipe.model_copy(update={"dataset": other})
    parts = build_parts(transferred, cache)
    require_inputs(recipe, folder)
    carry_over(recipe, folder, parts.method, f"those of {parts.dataset.name!r}")
    parts = replace(parts, temperature=read_classes(folder).temperature)
    return _evaluate(transferred, folder, parts, other.name, workers, cache)


def transfer_results(folder: RunFolder, name: str) -> dict[str, Any]:
    """Read the results of `transfer` for one dataset."""
    return read_results(storage.join(transfer_url(folder.url, name), RESULTS), results_owner(folder, name))


def results_owner(folder: RunFolder, transfer: str | None = None) -> str:
    """Return the owner of a run's results on its own dataset or on a transfer dataset; see `storage.checksums`."""
    if transfer is None:
        return folder.owner
    return storage.identity(f"{folder.owner}/{transfer_url('', transfer)}")


def results_of(recipe: Recipe, folder: RunFolder, transfer: str | None = None) -> dict[str, Any] | None:
    """Read a run's results on its training or a transfer dataset; return None if they are missing or outdated."""
    url = folder.url if transfer is None else transfer_url(folder.url, transfer)
    return _current_results(recipe, url, results_owner(folder, transfer))


def _current_results(recipe: Recipe, url: str, owner: str, domain: TestDomain | None = None) -> dict[str, Any] | None:
    """Read the results in a folder; return None if they are missing, outdated or from another test domain."""
    if not all(storage.exists(storage.join(url, name)) for name in (PREDICTIONS, RESULTS)):
        return None
    numbers = read_results(storage.join(url, RESULTS), owner)
    same = numbers.get("split") == recipe.evaluation.split and numbers.get("bins") == recipe.evaluation.bins
    same = same and numbers.get("test_domain") == domain
    return numbers if same and ("temperature" in numbers) == recipe.evaluation.calibrate else None


def missing_transfers(recipe: Recipe, folder: RunFolder) -> Sequence[str]:
    """List the datasets in `evaluation.transfer` that have no results."""
    return [name for name in recipe.evaluation.transfer if results_of(recipe, folder, name) is None]


def domain_folder(folder: RunFolder, domain: TestDomain) -> RunFolder:
    """Return the subfolder for a run's results with the prompts of one domain; its owner is that of `folder`."""
    return replace(folder, url=folder.path(TEST_DOMAINS, domain))


def missing_domains(recipe: Recipe, folder: RunFolder) -> Sequence[TestDomain]:
    """List the domains in `evaluation.test_domains` that have no results."""
    folders = {domain: domain_folder(folder, domain) for domain in recipe.evaluation.test_domains}
    return [name for name, each in folders.items() if _current_results(recipe, each.url, each.owner, name) is None]


def done(recipe: Recipe, folder: RunFolder) -> bool:
    """Return whether a resolved run has been trained and evaluated on all of its datasets, and has a contents file."""
    if not folder.finished(folder.open()) or not storage.exists(folder.path(CONTENTS)):
        return False
    if results_of(recipe, folder) is None or missing_domains(recipe, folder):
        return False
    return not missing_transfers(recipe, folder)


def _evaluate(
    recipe: Recipe,
    folder: RunFolder,
    parts: RunParts,
    dataset: str | None,
    workers: int | None,
    cache: ModelCache | None = None,
) -> dict[str, Any]:
    """Classify all images in the evaluation split, and write the predictions and results for each test domain.

    Zero-shot CLIP classifies the same images in the same pass, unless its scores are in the cache.

    Args:
        dataset: name of the transfer dataset; None: the run's own dataset.
    """
    url = folder.url if dataset is None else transfer_url(folder.url, dataset)
    owner = results_owner(folder, dataset)
    evaluation, method = recipe.evaluation, parts.method
    images = len(parts.dataset.split(evaluation.split))
    domains = (None, *evaluation.test_domains) if dataset is None else (None,)
    cached = {} if cache is None else cache.zero_shot
    key = dataset_key(recipe.dataset), evaluation.split, evaluation.batch_size, recipe.training.threads
    has_baseline = recipe.training.method != "zeroshot"
    baseline = zero_shot_baseline(parts) if has_baseline and key not in cached else None
    if workers is None or not images:
        by_domain = predictions(recipe, parts, evaluation.split, domains=domains, baseline=baseline)
    else:
        prompts = storage.read_verified(folder.path(PROMPTS), folder.owner)
        with_baseline = baseline is not None
        by_domain = shared_predictions(recipe, prompts, workers, images, parts.temperature, domains, with_baseline)
    classes = method.classnames, len(parts.dataset.base)
    if baseline is not None:
        cached[key] = scores_of(results(by_domain.pop(), *classes))
    record = folder.record()
    settings: dict[str, Any] = {"run": folder.name, "method": recipe.training.method, "split": evaluation.split}
    settings |= {"bins": evaluation.bins, "seen": record and record.seen}
    settings |= {"temperature": parts.temperature} if evaluation.calibrate else {}
    for domain, predicted in zip(domains, by_domain, strict=True):
        numbers = results(predicted, *classes, evaluation.bins)
        numbers[BASELINES] = {"zero_shot": cached[key]} if has_baseline and key in cached else {}
        numbers[BASELINES]["chance"] = chance(parts.dataset.candidates, classes[1])
        if domain is None:
            save_evaluation(url, {**settings, **numbers}, predicted, owner)
        else:
            target = domain_folder(folder, domain).url
            save_evaluation(target, {**settings, "test_domain": domain, **numbers}, predicted, owner)
    numbers = read_results(storage.join(url, RESULTS), owner)
    if dataset is None:
        show_results(folder, recipe.training, numbers, print_message)
    return numbers


def transfer_url(run_url: str, name: str) -> str:
    """Return the folder for the results on a transfer dataset, named after the last component of the dataset's path."""
    return storage.join(run_url, TRANSFER, name.rstrip("/").rpartition("/")[2])


def shared_predictions(
    recipe: Recipe,
    prompts: bytes,
    workers: int,
    images: int,
    temperature: float = 1.0,
    domains: Sequence[TestDomain | None] = (None,),
    baseline: bool = False,
) -> list[Predictions]:
    """Classify all images in the evaluation split with Ray tasks, which are pure functions and can be retried.

    Args:
        recipe: recipe of the run, with the dataset to evaluate on.
        prompts: content of the run's safetensors file.
        workers: number of tasks; tasks wait if the cluster is too small to run all of them concurrently.
        images: number of images in the split.
        baseline: whether zero-shot CLIP also classifies the images; its predictions come last.
    """
    import ray

    with ray_session():
        gpu = recipe.training.device != "cpu" and workers <= capacity()["GPU"] < float("inf")
        remote = ray.remote(predict_part).options(
            num_cpus=recipe.training.threads,
            num_gpus=1 if gpu or recipe.training.device == "cuda" else 0,
            max_retries=RETRIES,
        )
        try:
            parts = ray.get(
                [
                    remote.remote(recipe, prompts, part, workers, current(), temperature, domains, baseline)
                    for part in range(workers)
                ]
            )
        except ray.exceptions.RayTaskError as error:
            raise unwrapped(error) from error
    return [Predictions.joined(of_domain, images) for of_domain in zip(*parts, strict=True)]


def predict_part(
    recipe: Recipe,
    prompts: bytes,
    part: int,
    parts: int,
    session: Session,
    temperature: float = 1.0,
    domains: Sequence[TestDomain | None] = (None,),
    baseline: bool = False,
) -> list[Predictions]:
    """Body of a Ray task: classify part `part` of `parts` of the images."""
    with session, custom_code_reported():
        run = replace(build_parts(recipe), temperature=temperature)
        run.method.load_state_dict(safetensors.torch.load(prompts))
        zero_shot = zero_shot_baseline(run) if baseline else None
        return predictions(recipe, run, recipe.evaluation.split, part, parts, domains, zero_shot)
