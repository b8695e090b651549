"""The sets that a training learns from: found whole and of the right classes, and opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np

from syncclip import storage
from syncclip.core.settings import UserError, with_first_names
from syncclip.core.text import counted, few, first_difference
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.recipe.recipe import Recipe, digest
from syncclip.runtime.tempdirs import temporary_folder
from syncclip.shards.cache import ShardCache
from syncclip.shards.index import committed_shards
from syncclip.shards.markers import shard_name
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.stream.sources import MixedSource
from syncclip.stream.teacher import read_teacher
from syncclip.synthetic_sets.imported import holds_set, read_set, require_content
from syncclip.training.settings import MixedSet, TrainingSettings


class KnownSets:
    """What synthetic sets and datasets hold, each read once, for runs that are resolved together."""

    def __init__(self) -> None:
        self.holds_set = cache(holds_set)
        self.plan = cache(read_set)
        self.committed = cache(committed_shards)
        self.teacher = cache(read_teacher)
        self._classnames = cache(lambda name: load_dataset(DatasetSettings.model_validate_json(name)).classnames)

    def classnames(self, dataset: DatasetSettings) -> list[str]:
        """Those of a dataset, by class id."""
        return self._classnames(dataset.model_dump_json())


def synthetic_part(recipe: Recipe, url: str, known: KnownSets) -> tuple[int, str]:
    """(images per class, identity) of the part of the set at `url` that a run of this recipe learns from.

    The identity is a digest of all that decides those images; a set that grew since keeps the identity of its parts.

    Raises:
        UserError: the set is of other classes, holds too few images, or isn't finished that far.
    """
    plan = known.plan(url)
    if plan is None:
        raise UserError(
            f"{url}: no synthetic set there; generate one with `syncclip synth {recipe.argument} --out {url}`"
        )
    _require_same(plan.classnames, known.classnames(recipe.dataset), url, recipe)
    wanted = recipe.training.images_per_class or plan.images_per_class
    again = f"`syncclip synth {recipe.argument} --out {url} synthesis.images_per_class={wanted}`"
    if wanted > plan.images_per_class:
        raise UserError(
            f"training.images_per_class is {wanted}, but {url} holds "
            f"{counted(plan.images_per_class, 'image')} per class; generate more with {again}"
        )
    there, shards = known.committed(url, plan.owner), plan.shards(wanted)
    if missing := [shard for shard in shards if shard not in there]:
        raise UserError(
            f"{url}: {len(missing)} of {len(shards)} shards are missing or cut short "
            f"({few(map(shard_name, missing))}); finish the set with {again}"
        )
    require_content(plan, url)
    amounts = [*(amount for amount in plan.amounts if amount < wanted), wanted]
    return wanted, digest({**with_first_names(plan.model_dump(mode="json")), "amounts": amounts})


def teacher_part(recipe: Recipe, known: KnownSets) -> tuple[int, str]:
    """(length of the class vectors, digest) of the teacher that a run learns from, whose synthetic set is resolved.

    Raises:
        UserError: the run learns from several sets, or the teacher's files are of other classes, of other shards, or
            not there for all images that are learned from.
    """
    training, url = recipe.training, str(recipe.training.teacher)
    if not isinstance(training.synthetic, str):
        raise UserError(
            "training.teacher: a teacher's files are of one set, but training.synthetic is a list; name one set, "
            "which `syncclip shards merge` makes of several"
        )
    told, plan = known.teacher(url), known.plan(training.synthetic)
    assert plan is not None, "the set is resolved"
    told.require_classes(plan.classnames, url, training.synthetic)
    there, tars = {one.shard: one.tar_sha256 for one in told.shards}, known.committed(training.synthetic, plan.owner)
    wanted = plan.shards(training.images_per_class)
    if missing := [shard for shard in wanted if there.get(shard) != tars[shard].sha256]:
        what = "of other images" if missing[0] in there else "not there"
        raise UserError(
            f"{url}: the teacher's probabilities of {len(missing)} of {len(wanted)} shards are {what} "
            f"({few(map(shard_name, missing))}); "
            f"write them with `syncclip teacher RUN {training.synthetic} --out {url}`"
        )
    return told.dim, told.digest


def real_sources(recipe: Recipe, dataset: Dataset) -> list[MixedSource[ImageSet]]:
    """The shots of the dataset, which `build_parts` has put behind the cache, and those of the sets in `training.real`.

    Raises:
        UserError: one of them shows other classes, or isn't there.
    """
    classes: Literal["base", "all"] = "all" if recipe.training.data == "all_real" else "base"
    found = [(dataset, 1.0)]
    for one in recipe.training.real:
        other = load_dataset(recipe.dataset.model_copy(update={"name": one.url, "root": None}))
        _require_same(other.classnames, dataset.classnames, f"{one.url} (training.real)", recipe)
        found.append((through(other, shard_cache(recipe.training)), one.weight))
    return [
        MixedSource(each.split("train"), weight, np.asarray(each.few_shot(*recipe.shots, classes)))
        for each, weight in found
    ]


def mixed_sets(training: TrainingSettings) -> Sequence[MixedSet]:
    """The synthetic sets that a resolved recipe names."""
    assert training.synthetic is not None, "`resolve_run` names the set before anything is built"
    return (MixedSet(url=training.synthetic),) if isinstance(training.synthetic, str) else training.synthetic


def synthetic_sources(recipe: Recipe, classes: int) -> list[MixedSource[ShardSet]]:
    """The synthetic sets of a resolved recipe, opened.

    Raises:
        UserError: one is empty or damaged, shows a class that there is none of, or its window doesn't fit the cache.
    """
    training = recipe.training
    shards = shard_cache(training)
    sources = []
    for one in mixed_sets(training):
        images = ShardSet(one.url, training.max_corrupt_images, shards, resolved=True)
        images.check_labels(classes)
        sources.append(MixedSource(images, one.weight))
    _check_room([source.images for source in sources], training)
    return sources


def shard_cache(training: TrainingSettings) -> ShardCache:
    """Where remote shards are copied to: a folder that all workers of a machine share."""
    named = training.cache_folder
    ours = temporary_folder() / f"syncclip-{os.getuid()}-shards"  # alone below a folder that is everybody's
    folder = ours if named is None else storage.local_path(named).resolve()
    return ShardCache(training.cache_bytes, folder=str(folder), check=training.verify_shards)


def through(dataset: Dataset, cache: ShardCache) -> Dataset:
    """The dataset, with those of its splits that are shards read through a cache."""
    return dataset.with_images(lambda _, images: images.through(cache) if isinstance(images, ShardSet) else images)


def _require_same(found: Sequence[str], wanted: Sequence[str], place: str, recipe: Recipe) -> None:
    if list(found) != list(wanted):
        raise UserError(
            f"{place} shows {len(found)} classes that are not the {len(wanted)} of {recipe.dataset.name!r}"
            f"{first_difference(found, wanted)}; take a set of this dataset, or name another with "
            "training.synthetic=DIR"
        )


def _check_room(sets: Sequence[ShardSet], training: TrainingSettings) -> None:
    """Refuse a window of remote shards that would be copied again and again; with no room at all none is copied."""
    needed = 0
    for images in sets:
        if not storage.is_local(images.url):
            shards = sorted((stats.bytes for stats in images.shards.values()), reverse=True)
            needed += sum(
                shards if training.shuffle_window is None else shards[: training.shuffle_window + 1]
            )  # the next one too
    if 0 < training.cache_bytes < needed:
        raise UserError(
            f"training.cache_bytes is {training.cache_bytes:,}, but the shards that are in use at once take "
            f"{needed:,}; set training.shuffle_window to fewer shards, give it more room, or 0 to fetch each image "
            f"alone"
        )
