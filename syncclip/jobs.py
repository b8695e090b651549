"""High-level library functions, one per job: synth, train, evaluate and captions.

The CLI and Ray jobs call these functions. The training code is imported lazily, since importing torch takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.runs.resolve import finished_run, resolve_run, to_spec, with_absolute_paths
from syncclip.runtime.progress import print_message
from syncclip.runtime.ray_session import cluster_address
from syncclip.storage.urls import absolute
from syncclip.synthesis.captioning import write_captions
from syncclip.synthesis.driver import MAX_WAIT, files_of, has_all, is_complete, synthesise_part, synthesise_set
from syncclip.synthesis.plan import agreed_plan, parse_shards, read_plan
from syncclip.synthesis.prompts.captions import Captions, WriterSettings
from syncclip.synthesis.prompts.strategies import CaptionSettings
from syncclip.synthesis.summary import SetSummary
from syncclip.synthetic_sets.imported import SET_RECIPE
from syncclip.synthetic_sets.prepare import plan, with_assets
from syncclip.synthetic_sets.quality import STATS_NAME, measure_quality
from syncclip.training.run_folder import PROMPTS, RECIPE, RECORD, RunFolder

if TYPE_CHECKING:
    from syncclip.runs.build import ModelCache


@dataclass(frozen=True)
class Run:
    """A finished run with its results (see `evaluation.predict.results` for the keys)."""

    url: str
    name: str
    split: str
    results: dict[str, Any]


@overload
def synth(recipe: Recipe, out: str | None = None) -> SetSummary: ...


@overload
def synth(recipe: Recipe, out: str | None = None, *, shards: str | None) -> SetSummary | None: ...


def synth(recipe: Recipe, out: str | None = None, *, shards: str | None = None) -> SetSummary | None:
    """Generate a recipe's synthetic dataset as shards with Ray Data; committed shards are kept.

    If the process is killed, only in-flight shards are lost. Repeat the call to complete the dataset; the result is
    bitwise identical to that of an uninterrupted run.

    Args:
        out: folder or URL of the synthetic dataset; default: `<storage.root>/<name>/synthetic`.
        shards: range of shards, `FIRST:END` or `PART/PARTS`, if other jobs generate the others; see `parse_shards`. The
            last job writes the files of the complete dataset, such as its index; earlier jobs return None.

    Raises:
        UserError: see `synthesis.driver.synthesise_set`.

    Examples:
        >>> from syncclip import Recipe, synth
        >>> recipe = Recipe.load("travel", ["synthesis.images_per_class=2"])
        >>> synth(recipe, "runs/set").images
        28
    """
    url = absolute(out or storage.join(recipe.folder, "synthetic"))
    storage.require_kind(url, "a synthetic dataset")
    planned, stored = plan(recipe), read_plan(url)
    if stored is not None:
        if recipe.synthesis.shard_size is None:  # the default depends on the number of images
            planned = planned.model_copy(update={"shard_size": stored.shard_size})
        # An extended dataset has more shards than a new one.
        planned = agreed_plan(planned, stored, url).limited(planned.images_per_class)
    synthesis, assets, guard = recipe.synthesis, partial(with_assets, recipe), partial(storage.lock, url, "synth")
    if shards is not None:
        part = parse_shards(shards, len(planned.shards()))
        synthesise_part(planned, url, part, synthesis.pool, cost=synthesis.cost, place_assets=assets)
        print_message(f"shards {part.start}:{part.stop} of {len(planned.shards())} are committed: {url}")
        if not has_all(planned, url):
            return None
        guard = partial(guard, patience=MAX_WAIT)  # another job may be completing the dataset
    with nullcontext() if shards is None and is_complete(planned, url) else guard():
        summary = synthesise_set(planned, url, synthesis.pool, cost=synthesis.cost, place_assets=assets)
        storage.write_with_checksum(storage.join(url, SET_RECIPE), recipe.to_yaml().encode(), owner=summary.owner)
        if recipe.synthesis.quality and (summary.work.images or not storage.exists(storage.join(url, STATS_NAME))):
            measure_quality(recipe, url)
        storage.require(url, (*files_of(planned), SET_RECIPE))
        storage.write_contents(url, summary.owner)
    if not summary.work.images:
        print_message(f"all {summary.images:,} images already exist: {url}")
    return summary


def train(recipe: Recipe, out: str | None = None) -> Run:
    """Train `training.method` on Ray Train, evaluate it, and return the results.

    After a crash, repeat the call to resume from the latest checkpoint. With the same number of workers, the learned
    prompts are bitwise identical to those of an uninterrupted run. If the run has already finished, its results are
    returned immediately.

    Args:
        out: the run's folder or URL; default: a folder in `<storage.root>/<name>/runs`, named after the recipe's hash.

    Raises:
        UserError: the synthetic dataset is missing or does not match the recipe, the folder contains a different run,
            or `training.workers` exceeds the number of CPUs; see also `training.ray_train.train_on_ray`.

    Examples:
        >>> from syncclip import Recipe, train
        >>> recipe = Recipe.load("travel", ["training.synthetic=runs/set", "training.epochs=2"])
        >>> run = train(recipe, "runs/first")
        >>> 0 < run.results["novel"] < 100, run.url.endswith("runs/first")
        (True, True)
    """
    from syncclip.runs.build import build_on_worker
    from syncclip.training import ray_train

    recipe, folder = resolve_run(recipe, out)
    ray_train.check_cpus(recipe.training)
    with _locked(recipe, folder) as lock:
        steps, warning = recipe.methods.of(recipe.training.method).trains, recipe.warmup_warning
        ray_train.train_on_ray(build_on_worker, to_spec(recipe, folder), folder, recipe.training, warning, steps)
        workers = recipe.evaluation.workers or recipe.training.workers
        # On a cluster, the local machine may be small or have no GPU.
        distributed = workers > 1 or cluster_address() is not None
        run = _evaluated(recipe, folder, workers=workers if distributed else None)
        if lock is not None:
            storage.write_contents(folder.url, folder.owner)
        return run


def run_here(recipe: Recipe, out: str | None = None, cache: ModelCache | None = None) -> Run:
    """Train and evaluate in this process without Ray.

    The results are bitwise identical to those of `train` with one worker. Use this function for many short runs, each
    in its own Ray task. After a crash, repeat the call to resume. If a loader process is lost, training restarts from
    the newest checkpoint, up to `training.max_failures` times.

    Args:
        cache: data and models loaded by previous runs in this process.
    """
    return run_resolved(*resolve_run(recipe, out), cache)


def run_resolved(recipe: Recipe, folder: RunFolder, cache: ModelCache | None = None) -> Run:
    """Train and evaluate a run resolved by `resolve_run`; see `run_here`."""
    from syncclip.runs.build import ModelCache, build_job
    from syncclip.stream.loader import LostLoaderError
    from syncclip.training import loop

    cache = cache or ModelCache()
    with _locked(recipe, folder) as lock:
        unfinished, failures = not folder.finished(folder.open()), 0
        while unfinished:
            try:
                loop.run(build_job(recipe, folder, cache=cache))
                unfinished = False
            except LostLoaderError:  # noqa: PERF203
                failures += 1
                if failures > recipe.training.max_failures:
                    raise
        run = _evaluated(recipe, folder, cache)
        if lock is not None:
            storage.write_contents(folder.url, folder.owner)
        return run


def evaluate(run: str, overrides: Sequence[str] = (), dataset: str | None = None, root: str | None = None) -> Run:
    """Evaluate a finished run, and overwrite its `results.json` and `predictions.parquet`.

    Args:
        run: the run's folder or URL.
        overrides: settings in the sections `evaluation` and `storage`, such as "evaluation.split=val".
        dataset: name or path of another dataset whose classes and images are used for evaluation; the results are then
            written to `transfer/<dataset>` in the run's folder.
        root: folder that contains the other dataset; default: the root folder of the run's dataset.

    Raises:
        UserError: the run is missing or unfinished, an override belongs to a different section, or `dataset` is set
            although the learned parameters are specific to the run's classes.

    Examples:
        >>> from syncclip import evaluate
        >>> evaluate("runs/first", ["evaluation.split=val"]).split
        'val'
    """
    from syncclip.runs import evaluate as scoring

    for override in overrides:
        if override.partition(".")[0] not in ("evaluation", "storage"):
            raise UserError(
                f"command line: {override}: a finished run can't be changed; override only evaluation.* or storage.*"
            )
    recipe, folder = finished_run(run, overrides)
    if dataset is None:
        with storage.lock(folder.url, "evaluate"):
            results = scoring.score(recipe, folder, workers=recipe.evaluation.workers)
            storage.write_contents(folder.url, folder.owner)
    else:
        other = DatasetSettings(name=dataset, root=root or recipe.dataset.root)
        target = with_absolute_paths(recipe.model_copy(update={"dataset": other})).dataset
        with storage.lock(scoring.transfer_url(folder.url, target.name), "evaluate"):  # locks this dataset only
            results = scoring.transfer(recipe, folder, target, workers=recipe.evaluation.workers)
    return Run(folder.url, folder.name, recipe.evaluation.split, results)


def _evaluated(recipe: Recipe, folder: RunFolder, cache: ModelCache | None = None, workers: int | None = None) -> Run:
    from syncclip.evaluation.predict import PREDICTIONS
    from syncclip.runs import evaluate as scoring

    results = scoring.scored(recipe, folder, cache, workers)
    storage.require(folder.url, (RECORD, RECIPE, PROMPTS, PREDICTIONS))  # the results have just been read
    return Run(folder.url, folder.name, recipe.evaluation.split, results)


def _locked(recipe: Recipe, folder: RunFolder) -> AbstractContextManager[object]:
    """Return a lock on the run's folder, or a null context if the run is finished."""
    from syncclip.runs import evaluate as scoring

    return nullcontext() if scoring.done(recipe, folder) else storage.lock(folder.url, "train")


def captions(recipe: Recipe, out: str | None = None) -> dict[str, Captions]:
    """Generate captions with the recipe's language models on its actor pool, and return the captions, keyed by file.

    Existing captions are kept. After a crash, repeat the call to resume.

    Args:
        out: path or URL of the caption file; default: the file specified in the recipe.

    Raises:
        UserError: the recipe has no language model or no caption file; see also `synthesis.captioning.write_captions`.
    """
    storage.configure(recipe.storage.options)
    prompts = recipe.synthesis.prompts
    files: dict[str, WriterSettings] = {}
    for index, strategy in enumerate(prompts.strategies):
        if not isinstance(strategy, CaptionSettings):
            continue
        url, key = out or strategy.file, f"synthesis.prompts.strategies[{index}]"
        if strategy.writer is None:
            raise UserError(f"{key}.writer is missing; set a language model, as in {{model: Qwen/Qwen2.5-7B-Instruct}}")
        if url is None or url in files:
            raise UserError(f"{key}.file: each captions strategy needs its own file; set file to a path, or use --out")
        files[url] = strategy.writer
    if not files:
        raise UserError(
            "the recipe has no captions strategy; add {name: captions, file: FILE, writer: {model: MODEL}} to "
            "synthesis.prompts.strategies"
        )
    names = [name for name in load_dataset(recipe.dataset).classnames if name not in prompts.classes]
    synthesis = recipe.synthesis
    return {url: write_captions(writer, names, url, synthesis.pool, synthesis.threads) for url, writer in files.items()}
