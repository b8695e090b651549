"""From a recipe to the built parts of a run: benchmark, frozen CLIP with its method, stream of batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from syncclip import storage
from syncclip.benchmarks import Benchmark, load_benchmark
from syncclip.clip.backbone import Backbone
from syncclip.clip.transforms import train_transform
from syncclip.frozen_parts import FrozenParts
from syncclip.methods import Method, build_method, find_method
from syncclip.recipe import Recipe
from syncclip.settings import UserError
from syncclip.shards.reader import ImageSet
from syncclip.shards.stream import MixedStream
from syncclip.sources import real_sources, shard_cache, synthetic_sources, through
from syncclip.synthesis.filters import pinned
from syncclip.synthesis.guides import lay, real_pictures
from syncclip.synthesis.plan import Plan, settled
from syncclip.training.evaluation import evaluate_method


@dataclass(frozen=True)
class Parts:
    """What a run is made of. The method is on its device, in evaluation mode, its prompts as they start."""

    benchmark: Benchmark
    backbone: Backbone
    method: Method

    @property
    def device(self) -> torch.device:
        """Where the method is."""
        return self.method.clip.device


def assemble(recipe: Recipe, frozen: FrozenParts | None = None) -> Parts:
    """Load benchmark and backbone and build the method; the prompts' start depends on the training's seed.

    Args:
        frozen: has what earlier recipes of this process loaded. Methods built on it share a CLIP, and so its device.

    Raises:
        UserError: one of them is not there, or they do not fit each other.
    """
    storage.configure(recipe.storage.options)
    frozen = frozen or FrozenParts()
    benchmark = through(frozen.benchmark(recipe.benchmark), shard_cache(recipe.training))
    clip = frozen.clip(recipe.backbone)
    training = recipe.training
    settings = recipe.methods.of(training.method)
    method = build_method(training.method, clip, benchmark, settings, training.seed)
    benchmark = frozen.prepared(benchmark, recipe.benchmark, clip.backbone)
    return Parts(benchmark, clip.backbone, method.to(_device(training.device)).eval())


def stream(recipe: Recipe, parts: Parts, rank: int = 0, world_size: int = 1) -> MixedStream | None:
    """This rank's batches; None for a method that learns nothing.

    The few shots are drawn by `benchmark.seed`, or by the training's seed where none is given.
    """
    training = recipe.training
    if not parts.method.data:
        return None
    synthetic = synthetic_sources(recipe, len(parts.benchmark.classnames)) if learns_from_synthetic(recipe) else None
    return MixedStream(
        real_sources(recipe, parts.benchmark, *shots_of(recipe)),
        synthetic,
        transform=train_transform(parts.backbone, scale=training.scale, flip=training.flip),
        batch=training.batch,
        seed=training.seed,
        base=parts.benchmark.base,
        novel=parts.benchmark.novel,
        data=training.data,
        images_per_class=training.images_per_class,
        window=training.window,
        rank=rank,
        world_size=world_size,
        corrupt_limit=training.corrupt_limit,
        cache_images=training.cache_images,
    )


def validation(recipe: Recipe, parts: Parts) -> Callable[[], float]:
    """Gives the method's accuracy at the time on the validation pictures, in percent, among all classes.

    Raises:
        UserError: the benchmark has no such pictures.
    """
    pictures, transform = parts.benchmark.split("val"), parts.backbone.preprocess

    def accuracy() -> float:
        evaluation, threads = recipe.evaluation, recipe.training.threads
        numbers, _ = evaluate_method(
            parts.method, pictures, transform, evaluation.batch, threads=threads, candidates=parts.benchmark.only
        )
        return float(numbers["open_all"])

    return accuracy


def learns_from_synthetic(recipe: Recipe) -> bool:
    """Whether a run of this recipe reads the synthetic set."""
    return bool(find_method(recipe.training.method).data) and recipe.training.data != "real"


def shots_of(recipe: Recipe) -> tuple[int, int]:
    """How many real pictures a class has, and the seed that they are drawn by: as trainings of the recipe see them."""
    seed = recipe.training.seed if recipe.benchmark.seed is None else recipe.benchmark.seed
    return recipe.benchmark.shots, seed


def with_material(recipe: Recipe, drawn: Plan, url: str) -> Plan:
    """The plan with all that it needs laid into the set's folder: real pictures to start from, filters' heads, features
    of test pictures.

    Raises:
        UserError: the folder holds another plan's set, or something is missing or isn't what the set was begun with.
    """
    agreed = settled(drawn, url)
    if agreed.guides:
        benchmark = load_benchmark(recipe.benchmark)
        lay(real_pictures(benchmark, *shots_of(recipe)), benchmark, url)

    def test_pictures() -> ImageSet:
        return load_benchmark(recipe.benchmark).split("test")

    return drawn.model_copy(update={"filters": pinned(agreed.filters, url, test_pictures)})


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device is 'cuda', but there is no GPU here; use training.device=auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
