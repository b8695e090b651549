"""Build the parts of a run from its recipe: dataset, method with its frozen CLIP model, and batch stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from PIL import Image

from syncclip import storage
from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.prompted import PromptedClip
from syncclip.clip.tokens import TextTooLongError
from syncclip.clip.transforms import cut, train_transform
from syncclip.core.session import current
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.datasets.dataset import ImageView, Split
from syncclip.evaluation.predict import Predictions, fit_temperature, predict, results
from syncclip.methods import Method, build_method
from syncclip.methods.settings import TestDomain
from syncclip.recipe.recipe import Recipe
from syncclip.runs.data import mixed_sets, read_through, real_sources, shard_cache, synthetic_sources
from syncclip.runs.resolve import from_spec
from syncclip.shards.index import read_index
from syncclip.shards.reader import ImageSet, ShardSet
from syncclip.stream.mixed import MixedStream
from syncclip.stream.sources import MixedSource
from syncclip.stream.teacher import Teacher
from syncclip.training.loop import TrainJob, device_of
from syncclip.training.run_folder import RunFolder


@dataclass(frozen=True)
class RunParts:
    """Parts of a run. The method is on its device and in evaluation mode, with untrained prompts."""

    dataset: Dataset
    backbone: Backbone
    method: Method
    temperature: float = 1.0
    """Calibration temperature."""


def build_parts(recipe: Recipe, cache: ModelCache | None = None) -> RunParts:
    """Load the dataset and backbone, and build the method, initialised with the training seed.

    Args:
        cache: process-wide cache; all methods built with it share one CLIP model on one device.
    """
    storage.configure(recipe.storage.options)
    cache = cache or ModelCache()
    dataset = read_through(cache.dataset(recipe.dataset), shard_cache(recipe.training))
    clip = cache.clip(recipe.backbone)
    training = recipe.training
    settings = recipe.methods.of(training.method)
    learned = replace(dataset, base_count=len(dataset.classnames)) if training.data == "all_real" else dataset
    method = build_method(training.method, clip, learned, settings, training.seed)
    dataset = cache.prepared(dataset, recipe.dataset, clip.backbone)
    return RunParts(dataset, clip.backbone, method.to(device_of(training.device)).eval())


def build_stream(
    recipe: Recipe, run: RunParts, rank: int = 0, world_size: int = 1, cache: ModelCache | None = None
) -> MixedStream | None:
    """Build the batch stream of one rank; return None for a method that is not trained."""
    cache = cache or ModelCache()
    training = recipe.training
    if not run.method.settings.data:
        return None
    synthetic = cache.sets(recipe, len(run.dataset.classnames)) if recipe.uses_synthetic else []
    teacher = Teacher(str(training.teacher), shard_cache(training)) if recipe.uses_teacher else None
    return MixedStream(
        real_sources(recipe, run.dataset),
        synthetic,
        transform=train_transform(run.backbone, scale=training.crop_scale, flip=training.flip_probability),
        batch=training.batch_size,
        seed=training.seed,
        base=run.dataset.base,
        novel=run.dataset.novel,
        data="real" if training.data == "all_real" else training.data,
        epochs_over=training.epochs_over,
        images_per_class=training.images_per_class,
        window=training.shuffle_window,
        rank=rank,
        world_size=world_size,
        max_corrupt_images=training.max_corrupt_images,
        cache_images=training.cache_images,
        teacher=teacher,
    )


def validation_accuracy(recipe: Recipe, run: RunParts) -> float:
    """Compute the method's current validation accuracy in per cent, with all classes as candidates."""
    numbers = results(predictions(recipe, run, "val")[0], run.method.classnames, len(run.dataset.base))
    return float(numbers["all_classes_accuracy"])


def predictions(
    recipe: Recipe,
    run: RunParts,
    split: Split,
    part: int = 0,
    parts: int = 1,
    domains: Sequence[TestDomain | None] = (None,),
    baseline: Method | None = None,
) -> list[Predictions]:
    """Classify the images of a split, or part `part` of `parts`, for each test domain and `baseline`; see
    `predict`."""
    images, batch, threads = run.dataset.split(split), recipe.evaluation.batch_size, recipe.training.threads
    base, only = len(run.dataset.base), run.dataset.only
    transform, method = run.backbone.preprocess, run.method
    return predict(
        method, images, base, transform, batch, threads, only, part, parts, run.temperature, domains, baseline
    )


def zero_shot_baseline(run: RunParts) -> Method | None:
    """Build zero-shot CLIP for a run's classes; None if a prompt exceeds the context length."""
    try:
        return build_method("zeroshot", run.method.clip, run.dataset).to(run.method.clip.device).eval()
    except TextTooLongError:  # the run's method does not use the template
        return None


def calibrated(recipe: Recipe, run: RunParts) -> RunParts:
    """Fit the temperature on validation images if the recipe enables calibration; see `fit_temperature`."""
    if not recipe.evaluation.calibrate:
        return run
    images, batch, threads = run.dataset.split("val"), recipe.evaluation.batch_size, recipe.training.threads
    fitted = fit_temperature(run.method, images, len(run.dataset.base), run.backbone.preprocess, batch, threads)
    return replace(run, temperature=fitted)


TESTED: tuple[Split, ...] = ("val", "test")
OPENING = ("synthetic", "shuffle_window", "max_corrupt_images", "verify_shards", "cache_bytes", "cache_folder")
"""Settings in `training` that affect how synthetic datasets are opened."""


class ModelCache:
    """Cache of datasets, synthetic datasets, one CLIP model and test images for consecutive runs.

    Results with and without the cache are bit-identical. Test images are decoded and cropped before caching.
    Not thread-safe.

    Args:
        keep_bytes: maximum memory for cached images in bytes; images beyond it are decoded on every access.
    """

    def __init__(self, keep_bytes: int = 0) -> None:
        self.loads: dict[str, int] = {"dataset": 0, "sets": 0, "clip": 0, "image": 0}
        """Number of cache misses by kind of object."""
        self._keep_bytes = keep_bytes
        self.room = keep_bytes
        """Remaining memory for cached images, in bytes."""
        self._datasets: dict[str, Dataset] = {}
        self._sets: tuple[object, list[MixedSource[ShardSet]]] | None = None
        self._clip: tuple[BackboneSettings, PromptedClip] | None = None
        self._images: dict[tuple[str, str], dict[int, Image.Image]] = {}
        self.zero_shot: dict[tuple[str, str, int, int], dict[str, Any]] = {}
        """Scores of zero-shot CLIP, keyed by dataset, split, batch size and number of threads."""

    def dataset(self, settings: DatasetSettings) -> Dataset:
        """Return the cached result of `load_dataset`."""
        key = dataset_key(settings)
        if key not in self._datasets:
            self.loads["dataset"] += 1
            self._datasets[key] = load_dataset(settings)
        return self._datasets[key]

    def sets(self, recipe: Recipe, classes: int) -> list[MixedSource[ShardSet]]:
        """Return the cached result of `synthetic_sources`; reopen the datasets if their files have changed."""
        training = recipe.training.model_dump(include=set(OPENING))
        key = training, classes, [self._version(mixed.url) for mixed in mixed_sets(recipe.training)]
        if self._sets is None or self._sets[0] != key:
            self.loads["sets"] += 1
            self._sets = key, synthetic_sources(recipe, classes)
        return self._sets[1]

    def _version(self, url: str) -> object:
        """Return the checksum of a synthetic dataset's index if it matches the files, or else the sizes of all files.

        The index is compared with the files when a run is resolved, and again when a cached dataset is reused.
        """
        checksum = current().listings.get(url)
        if checksum is not None and self._sets is not None:
            index = read_index(url)
            checksum = None if index is None else index.sha256
        return checksum or storage.sizes(url)

    def clip(self, settings: BackboneSettings) -> PromptedClip:
        """Return the cached CLIP model on the device of the last run; load a new model if the settings differ."""
        if self._clip is None or self._clip[0] != settings:
            self._clip = None  # free its memory first
            self._images.clear()
            self.zero_shot.clear()
            self.room = self._keep_bytes
            self.loads["clip"] += 1
            self._clip = settings, PromptedClip(load_backbone(settings))
        return self._clip[1]

    def prepared(self, dataset: Dataset, settings: DatasetSettings, backbone: Backbone) -> Dataset:
        """Return a view of the dataset that caches test images, cropped to the backbone's input size.

        Cropping before caching does not change the result of `preprocess`.
        """
        if not self._keep_bytes:
            return dataset
        kept: dict[Split, dict[int, Image.Image]] = {
            split: self._images.setdefault((dataset_key(settings), split), {}) for split in TESTED
        }
        return dataset.with_images(
            lambda split, images: CachedImages(self, images, kept[split], backbone) if split in kept else images
        )


class CachedImages(ImageView):
    """View that caches decoded images; images beyond the memory limit are decoded on every access."""

    def __init__(self, cache: ModelCache, images: ImageSet, kept: dict[int, Image.Image], backbone: Backbone) -> None:
        super().__init__(images)
        self._cache, self._kept, self._backbone = cache, kept, backbone

    def image(self, row: int) -> Image.Image:
        """Return the RGB image of a row, cropped to the backbone's input size."""
        if row in self._kept:
            return self._kept[row]
        image = cut(super().image(row), self._backbone.preprocess)
        self._cache.loads["image"] += 1
        size = 3 * image.width * image.height
        if size <= self._cache.room:
            self._cache.room -= size
            self._kept[row] = image
        return image


def dataset_key(settings: DatasetSettings) -> str:
    """Return a dataset's cache key, which does not depend on few-shot settings."""
    return settings.model_copy(update={"shots": 1, "seed": None}).model_dump_json()


def build_on_worker(spec: dict[str, Any], rank: int, world_size: int) -> TrainJob:
    """Build the training job of one rank on a worker, from the result of `to_spec`."""
    return build_job(*from_spec(spec), rank, world_size)


def build_job(
    recipe: Recipe, folder: RunFolder, rank: int = 0, world_size: int = 1, cache: ModelCache | None = None
) -> TrainJob:
    """Build the training job of one rank; raise a `UserError` if a required split is missing or corrupt."""
    run = build_parts(recipe, cache)
    run.dataset.split(recipe.evaluation.split)  # raises now instead of after the training
    settings = recipe.methods.of(recipe.training.method)
    validate = None
    if recipe.training.keep_best == "validation":
        run.dataset.split("val")  # raises now instead of at the first checkpoint
        validate = partial(validation_accuracy, recipe, run)
    stream = build_stream(recipe, run, rank, world_size, cache)
    if stream is not None and stream.teacher is not None:
        run.method.meet_teacher(torch.from_numpy(stream.teacher.class_vectors()))
    learning = settings.learning_rate, validate, settings.optimisation
    return TrainJob(folder, run.method, stream, recipe.training, *learning)
