"""The jobs of the library, each one call: synth, train, evaluate, captions. Commands and Ray jobs call these.

What trains is imported by the jobs that train: a process that only starts a synthesis does not import torch, which
takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.recipe.recipe import Recipe
from syncclip.runs.resolve import finished_run, resolve_run, to_spec, with_absolute_paths
from syncclip.runtime.progress import say
from syncclip.runtime.ray_session import cluster_address
from syncclip.storage.urls import absolute
from syncclip.synthesis.captioning import write_captions
from syncclip.synthesis.driver import files_of, has_all, synthesise_set
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
    """A finished run: its place and its results (see `evaluation.predict.results` for the keys)."""

    url: str
    name: str
    split: str
    results: dict[str, Any]


def synth(recipe: Recipe, out: str | None = None) -> SetSummary:
    """Generate the synthetic set of a recipe as shards, with Ray Data; committed shards are kept.

    Killed at any time, it loses the shards in flight, and the same call completes the set to the same bytes.

    Args:
        out: folder or URL of the set; by default `<storage.root>/<name>/synthetic`.

    Raises:
        UserError: see `synthesis.driver.synthesise_set`.

    Examples:
        >>> from syncclip import Recipe, synth
        >>> recipe = Recipe.load("travel", ["synthesis.images_per_class=2"])
        >>> synth(recipe, "runs/set").images
        28
    """
    url = absolute(out or storage.join(recipe.folder, "synthetic"))
    asked = plan(recipe)
    with nullcontext() if has_all(asked, url) else storage.lease(url, "synth"):
        summary = synthesise_set(asked, url, recipe.synthesis.pool, place_assets=partial(with_assets, recipe))
        storage.write_sealed(storage.join(url, SET_RECIPE), recipe.to_yaml().encode(), owner=summary.owner)
        if recipe.synthesis.quality and (summary.work.images or not storage.exists(storage.join(url, STATS_NAME))):
            measure_quality(recipe, url)
        storage.require(url, (*files_of(asked), SET_RECIPE))
        storage.write_contents(url, summary.owner)
    if not summary.work.images:
        say(f"all {summary.images:,} images are there already: {url}")
    return summary


def train(recipe: Recipe, out: str | None = None) -> Run:
    """Train `training.method` on Ray Train, evaluate it, and return the results.

    Killed at any time, the same call resumes from the newest checkpoint and ends with the same prompts, bit for bit,
    on the same number of workers. A finished run returns at once.

    Args:
        out: the run's folder or URL; by default one in `<storage.root>/<name>/runs`, named after what decides it.

    Raises:
        UserError: there is no synthetic set where one is needed, or not the right one; the folder holds another run;
            more workers than CPUs; see also `training.ray_train.train_on_ray`.

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
    with _held(recipe, folder) as hold:
        ray_train.train_on_ray(build_on_worker, to_spec(recipe, folder), folder, recipe.training, recipe.warmup_warning)
        workers = recipe.evaluation.workers or recipe.training.workers
        # On a cluster, the machine of this process may be small, or have no GPU.
        shared = workers > 1 or cluster_address() is not None
        run = _evaluated(recipe, folder, workers=workers if shared else None)
        if hold is not None:
            storage.write_contents(folder.url, folder.owner)
        return run


def run_here(recipe: Recipe, out: str | None = None, cache: ModelCache | None = None) -> Run:
    """Train and evaluate in this process, without Ray: what `train` does with one worker, bit for bit.

    For many short runs, each a Ray task of its own. It resumes after a crash as `train` does.

    Args:
        cache: what earlier runs of this process loaded.
    """
    return run_resolved(*resolve_run(recipe, out), cache)


def run_resolved(recipe: Recipe, folder: RunFolder, cache: ModelCache | None = None) -> Run:
    """As `run_here`, for a run that `resolve_run` has resolved."""
    from syncclip.runs.build import ModelCache, build_job
    from syncclip.training import loop

    cache = cache or ModelCache()
    with _held(recipe, folder) as hold:
        if not folder.finished(folder.open()):
            loop.run(build_job(recipe, folder, cache=cache))
        run = _evaluated(recipe, folder, cache)
        if hold is not None:
            storage.write_contents(folder.url, folder.owner)
        return run


def evaluate(run: str, overrides: Sequence[str] = (), dataset: str | None = None, root: str | None = None) -> Run:
    """Evaluate a finished run in one pass over the images, and write `results.json` and `predictions.parquet` anew.

    Args:
        run: the run's folder or URL.
        overrides: of the sections `evaluation` and `storage` ("evaluation.split=val").
        dataset: another one, by its name or path, to whose classes the run's prompts are applied; results then go to
            `transfer/<dataset>` in the run's folder.
        root: folder in which the other dataset is looked up; by default that of the run's own dataset.

    Raises:
        UserError: no finished run is there, or an override would make it another run; or another dataset is
            named, and what the run learned belongs to its own classes.

    Examples:
        >>> from syncclip import evaluate
        >>> evaluate("runs/first", ["evaluation.split=val"]).split
        'val'
    """
    from syncclip.runs import evaluate as scoring

    for override in overrides:
        if override.partition(".")[0] not in ("evaluation", "storage"):
            raise UserError(
                f"command line: {override}: a finished run can't be changed; override evaluation.* and storage.* only"
            )
    recipe, folder = finished_run(run, overrides)
    if dataset is None:
        with storage.lease(folder.url, "evaluate"):
            results = scoring.score(recipe, folder, workers=recipe.evaluation.workers)
            storage.write_contents(folder.url, folder.owner)
    else:
        other = DatasetSettings(name=dataset, root=root or recipe.dataset.root)
        place = with_absolute_paths(recipe.model_copy(update={"dataset": other})).dataset
        with storage.lease(scoring.transfer_url(folder.url, place.name), "evaluate"):  # others test it elsewhere
            results = scoring.transfer(recipe, folder, place, workers=recipe.evaluation.workers)
    return Run(folder.url, folder.name, recipe.evaluation.split, results)


def _evaluated(recipe: Recipe, folder: RunFolder, cache: ModelCache | None = None, workers: int | None = None) -> Run:
    from syncclip.evaluation.predict import PREDICTIONS
    from syncclip.runs import evaluate as scoring

    results = scoring.scored(recipe, folder, cache, workers)
    storage.require(folder.url, (RECORD, RECIPE, PROMPTS, PREDICTIONS))  # the results have just been read
    return Run(folder.url, folder.name, recipe.evaluation.split, results)


def _held(recipe: Recipe, folder: RunFolder) -> AbstractContextManager[object]:
    """The run's folder, held where there is anything to be done."""
    from syncclip.runs import evaluate as scoring

    return nullcontext() if scoring.done(recipe, folder) else storage.lease(folder.url, "train")


def captions(recipe: Recipe, out: str | None = None) -> dict[str, Captions]:
    """Let the recipe's language models write captions, once: file -> its content.

    The recipe's pool of actors writes them. Captions in a file are kept. Killed at any time, the same call goes on.

    Args:
        out: the file's path or URL; by default the one that the recipe names.

    Raises:
        UserError: the recipe names no model or no file; or see `synthesis.captioning.write_captions`.
    """
    storage.configure(recipe.storage.options)
    prompts = recipe.synthesis.prompts
    files: dict[str, WriterSettings] = {}
    for place, strategy in enumerate(prompts.strategies):
        if not isinstance(strategy, CaptionSettings):
            continue
        url, key = out or strategy.file, f"synthesis.prompts.strategies[{place}]"
        if strategy.writer is None:
            raise UserError(f"{key}.writer: missing; name a language model, as in {{model: Qwen/Qwen2.5-7B-Instruct}}")
        if url is None or url in files:
            raise UserError(f"{key}.file: captions need a file of their own; name one there, or with --out")
        files[url] = strategy.writer
    if not files:
        raise UserError(
            "the recipe asks for no captions; add {name: captions, file: FILE, writer: {model: MODEL}} to "
            "synthesis.prompts.strategies"
        )
    names = [name for name in load_dataset(recipe.dataset).classnames if name not in prompts.classes]
    synthesis = recipe.synthesis
    return {url: write_captions(writer, names, url, synthesis.pool, synthesis.threads) for url, writer in files.items()}
