"""Open the training datasets of a run, and check that they are complete and have the right classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np

from syncclip import storage
from syncclip.core.consent import code_files
from syncclip.core.settings import UserError
from syncclip.core.text import counted, few, first_difference
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.datasets.loading import image_files
from syncclip.recipe.recipe import Recipe, digest
from syncclip.runtime.tempdirs import temporary_folder
from syncclip.shards.cache import ShardCache
from syncclip.shards.index import committed_shards
from syncclip.shards.markers import shard_name
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.stream.sources import MixedSource
from syncclip.stream.teacher import read_teacher
from syncclip.synthetic_sets.imported import holds_set, read_set, require_content
from syncclip.training.run_folder import Inputs, RunFolder, changed_inputs
from syncclip.training.settings import MixedDataset, TrainingSettings

CODE = "files of training.method"
"""Key of a custom method's files in a run's inputs."""


def images_key(split: str, dataset: str = "dataset.name") -> str:
    """Return the key of a split's images in a run's inputs."""
    return f"{split} images of {dataset}"


class SetCache:
    """Cache of dataset plans, shard lists and class names for runs that are resolved together."""

    def __init__(self) -> None:
        self.holds_set = cache(holds_set)
        self.plan = cache(read_set)
        self.committed = cache(committed_shards)
        self.teacher = cache(read_teacher)
        self.files = cache(_files_of)
        self._classnames = cache(lambda name: load_dataset(DatasetSettings.model_validate_json(name)).classnames)

    def classnames(self, dataset: DatasetSettings) -> list[str]:
        """Return the class names of a dataset, ordered by class id."""
        return self._classnames(dataset.model_dump_json())


def _files_of(dataset: str) -> Inputs:
    splits = image_files(DatasetSettings.model_validate_json(dataset))
    return {split: (len(files), digest(files)) for split, files in splits.items()}


def run_inputs(recipe: Recipe, sets: SetCache) -> Inputs:
    """Return the number and checksum of the files of a run's custom method, and of each split of its custom data."""
    method, training = recipe.training.method, recipe.training
    files = code_files(method) if ":" in method else {}
    inputs: Inputs = {CODE: (len(files), digest(files))} if files else {}
    datasets = {"dataset.name": recipe.dataset}
    for number, mixed in enumerate(training.real if training.data != "synthetic" else []):
        datasets[f"training.real[{number}]"] = recipe.dataset.model_copy(update={"name": mixed.url, "root": None})
    for key, dataset in datasets.items():
        inputs |= {images_key(split, key): value for split, value in sets.files(dataset.model_dump_json()).items()}
    return inputs


def require_inputs(recipe: Recipe, folder: RunFolder, *splits: str) -> None:
    """Raise a `UserError` if a run's custom code, or the given splits of its dataset, have changed since training."""
    keys = {CODE, *map(images_key, splits)}
    recorded = {key: value for key, value in folder.inputs.items() if key in keys}
    if recorded and (changed := changed_inputs(recorded, run_inputs(recipe, SetCache()))):
        raise UserError(
            f"{folder.url}: the inputs have changed since the training ({', '.join(changed)}); restore the files, or "
            "train again in a different folder"
        )


def synthetic_part(recipe: Recipe, url: str, sets: SetCache) -> tuple[int, str]:
    """Return the number of synthetic images per class that a run uses from the dataset at `url`, and their hash.

    The hash covers everything that determines these images, so it does not change when the dataset grows.

    Raises:
        UserError: the synthetic dataset has different classes, too few images, or missing shards.
    """
    plan = sets.plan(url)
    if plan is None:
        fix = f"no synthetic dataset found; run `syncclip synth {recipe.argument} --out {url}`"
        raise storage.wrong_folder(url, "a synthetic dataset", fix)
    _require_same(plan.classnames, sets.classnames(recipe.dataset), url, recipe)
    count = recipe.training.images_per_class or plan.images_per_class
    command = f"`syncclip synth {recipe.argument} --out {url} synthesis.images_per_class={count}`"
    if count > plan.images_per_class:
        available = counted(plan.images_per_class, "image")
        raise UserError(
            f"training.images_per_class is {count}, but {url} has {available} per class; generate more with {command}"
        )
    existing, shards = sets.committed(url, plan.owner), plan.shards(count)
    if missing := [shard for shard in shards if shard not in existing]:
        names = few(map(shard_name, missing))
        raise UserError(
            f"{url}: {len(missing)} of {len(shards)} shards are missing or truncated ({names}); complete the dataset "
            f"with {command}"
        )
    require_content(plan, url)
    amounts = [*(amount for amount in plan.amounts if amount < count), count]
    return count, digest({**plan.model_dump(mode="json"), "amounts": amounts})


def teacher_part(recipe: Recipe, sets: SetCache) -> tuple[int, str]:
    """Return (dimension of the teacher's class vectors, checksum of the teacher).

    Args:
        recipe: recipe with a resolved synthetic dataset.

    Raises:
        UserError: the recipe has several synthetic datasets, or the teacher has different classes or shards.
    """
    training, url = recipe.training, str(recipe.training.teacher)
    if not isinstance(training.synthetic, str):
        raise UserError(
            "training.teacher requires a single synthetic dataset, but training.synthetic is a list; combine the list "
            "with `syncclip shards merge`"
        )
    teacher, plan = sets.teacher(url), sets.plan(training.synthetic)
    assert plan is not None, "the recipe's synthetic dataset must be resolved"
    teacher.require_classes(plan.classnames, url, training.synthetic)
    existing = {shard.shard: shard.tar_sha256 for shard in teacher.shards}
    tars, shards = sets.committed(training.synthetic, plan.owner), plan.shards(training.images_per_class)
    if missing := [shard for shard in shards if existing.get(shard) != tars[shard].sha256]:
        problem = "belong to other images" if missing[0] in existing else "are missing"
        raise UserError(
            f"{url}: teacher predictions for {len(missing)} of {len(shards)} shards {problem} "
            f"({few(map(shard_name, missing))}); run `syncclip teacher RUN {training.synthetic} --out {url}`"
        )
    return teacher.dim, teacher.digest


def real_sources(recipe: Recipe, dataset: Dataset) -> list[MixedSource[ImageSet]]:
    """Return the few-shot samples of the recipe's dataset and of the datasets in `training.real`.

    Raises:
        UserError: a dataset is missing or has different classes.
    """
    classes: Literal["base", "all"] = "all" if recipe.training.data == "all_real" else "base"
    datasets = [(dataset, 1.0)]
    for mixed in recipe.training.real:
        other = load_dataset(recipe.dataset.model_copy(update={"name": mixed.url, "root": None}))
        _require_same(other.classnames, dataset.classnames, f"{mixed.url} (training.real)", recipe)
        datasets.append((read_through(other, shard_cache(recipe.training)), mixed.weight))
    return [
        MixedSource(item.split("train"), weight, np.asarray(item.few_shot(*recipe.shots, classes)))
        for item, weight in datasets
    ]


def mixed_sets(training: TrainingSettings) -> Sequence[MixedDataset]:
    """List the synthetic datasets of a resolved recipe."""
    assert training.synthetic is not None, "the recipe must be resolved by `resolve_run`"
    return (MixedDataset(url=training.synthetic),) if isinstance(training.synthetic, str) else training.synthetic


def synthetic_sources(recipe: Recipe, classes: int) -> list[MixedSource[ShardSet]]:
    """Open the synthetic datasets of a resolved recipe.

    Raises:
        UserError: a dataset is empty or corrupt or has different classes, or the shuffle window exceeds the cache.
    """
    training = recipe.training
    shards = shard_cache(training)
    sources = []
    for mixed in mixed_sets(training):
        images = ShardSet(mixed.url, training.max_corrupt_images, shards, resolved=True)
        images.check_labels(classes)
        sources.append(MixedSource(images, mixed.weight))
    _check_room([source.images for source in sources], training)
    return sources


def shard_cache(training: TrainingSettings) -> ShardCache:
    """Open the cache of remote shards, a folder shared by all workers on a machine."""
    default = temporary_folder() / f"syncclip-{os.getuid()}-shards"  # one folder per user
    folder = default if training.cache_folder is None else storage.local_path(training.cache_folder).resolve()
    return ShardCache(training.cache_bytes, folder=str(folder), check=training.verify_shards)


def read_through(dataset: Dataset, cache: ShardCache) -> Dataset:
    """Return a view of the dataset that reads sharded splits through a cache."""
    return dataset.with_images(lambda _, images: images.through(cache) if isinstance(images, ShardSet) else images)


def _require_same(names: Sequence[str], expected: Sequence[str], source: str, recipe: Recipe) -> None:
    if list(names) != list(expected):
        difference = first_difference(names, expected)
        raise UserError(
            f"{source}: its {len(names)} classes differ from the {len(expected)} classes of dataset "
            f"{recipe.dataset.name!r}{difference}; use a dataset with the same classes in the same order"
        )


def _check_room(sets: Sequence[ShardSet], training: TrainingSettings) -> None:
    """Raise a `UserError` if the shuffle window of remote shards exceeds the cache."""
    needed = 0
    for images in sets:
        if not storage.is_local(images.url):
            shards = sorted((stats.bytes for stats in images.shards.values()), reverse=True)
            window = training.shuffle_window
            needed += sum(shards if window is None else shards[: window + 1])  # one more for the prefetched shard
    if 0 < training.cache_bytes < needed:
        raise UserError(
            f"training.cache_bytes is {training.cache_bytes:,}, but the shards in use take {needed:,} bytes; increase "
            "training.cache_bytes, reduce training.shuffle_window, or set training.cache_bytes=0 to fetch images "
            "one by one"
        )
