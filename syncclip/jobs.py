"""The jobs of the library, each one call: plan, synthesise, train, evaluate. Commands and Ray jobs call just these."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncclip import cluster, scoring, storage
from syncclip.appraisal import appraise
from syncclip.assembly import (
    assemble,
    learns_from_synthetic,
    shots_of,
    stream,
    validation,
    with_material,
)
from syncclip.benchmarks import BenchmarkSettings, load_benchmark
from syncclip.benchmarks.loading import known
from syncclip.clip.backbone import EMBEDDED
from syncclip.frozen_parts import FrozenParts
from syncclip.recipe import Recipe, digest
from syncclip.settings import UserError
from syncclip.sources import settled_sets
from syncclip.synthesis.filters import check_safety
from syncclip.synthesis.generators import check_scheduler
from syncclip.synthesis.graph import synthesise_set
from syncclip.synthesis.guides import digests, real_pictures
from syncclip.synthesis.imported import holds_set
from syncclip.synthesis.plan import Plan, draft
from syncclip.synthesis.prompts.files import with_sentences
from syncclip.synthesis.quality import STATS_NAME
from syncclip.synthesis.summary import SetSummary
from syncclip.training import driver, loop
from syncclip.training.ledger import Listener
from syncclip.training.loop import TrainJob
from syncclip.training.runs import PROMPTS, RECIPE, RunFolder, say

SET_RECIPE = "synthesis.yaml"
"""The resolved recipe beside a set; a run in the same folder has its own `recipe.yaml`."""


@dataclass(frozen=True)
class Run:
    """A finished run: where it lies and what it reached (see `training.evaluation.results` for the keys)."""

    url: str
    name: str
    split: str
    results: dict[str, Any]


def plan(recipe: Recipe) -> Plan:
    """What `synthesise` would draw: class, prompt and seed of every picture. Nothing is drawn or written.

    Raises:
        UserError: the benchmark isn't there, or can't be drawn like this.
    """
    generator = recipe.synthesis.generator
    check_scheduler(generator)
    check_safety(recipe.synthesis.filters, generator)
    storage.configure(recipe.storage.options)
    benchmark = load_benchmark(recipe.benchmark)
    guides = digests(real_pictures(benchmark, *shots_of(recipe))) if generator.guide else ()
    return draft(
        recipe.synthesis.model_copy(update={"prompts": with_sentences(recipe.synthesis.prompts)}),
        benchmark=benchmark.name,
        classnames=benchmark.classnames,
        template=benchmark.template,
        backbone=recipe.backbone,
        guides=guides,
    )


def synthesise(recipe: Recipe, out: str | None = None) -> SetSummary:
    """Draw the synthetic set of a recipe into shards, by Ray Data; what is committed already stays.

    Killed at any time, it loses the shards in flight, and the same call completes the set to the same bytes.

    Args:
        out: folder or URL of the set; by default `<storage.root>/<name>/synthetic`.

    Raises:
        UserError: see `synthesis.graph.synthesise_set`.
    """
    url = absolute(out or storage.join(recipe.folder, "synthetic"))
    drawn = with_material(recipe, plan(recipe), url)
    synthesis = recipe.synthesis
    summary = synthesise_set(
        drawn,
        url,
        actors=synthesis.least_actors,
        max_actors=synthesis.most_actors,
        num_gpus=synthesis.num_gpus,
        retries=synthesis.retries,
        storage_options=recipe.storage.options,
    )
    storage.write_bytes(storage.join(url, SET_RECIPE), recipe.to_yaml().encode())
    if synthesis.quality and (summary.work.images or not storage.exists(storage.join(url, STATS_NAME))):
        appraise(recipe, url)
    if not summary.work.images:
        say(f"all {summary.images:,} images are there already: {url}")
    return summary


def train(recipe: Recipe, out: str | None = None) -> Run:
    """Train `training.method` on Ray Train, evaluate it, and return the results.

    Killed at any time, the same call goes on from the newest checkpoint and ends with the same prompts, bit for bit,
    on the same number of workers. A finished run returns at once.

    Args:
        out: the run's folder or URL; by default one below `<storage.root>/<name>/runs`, named by what decides the run.

    Raises:
        UserError: there is no synthetic set where one is needed, or not the right one; the folder holds another run;
            more workers than CPUs; see also `training.driver.train_on_ray`.
    """
    recipe, folder = settled_run(recipe, out)
    driver.check_cpus(recipe.training)
    values = recipe.model_dump(mode="json")
    spec = {"recipe": values, "url": folder.url, "name": folder.name, "hash": folder.recipe_hash}
    driver.train_on_ray(build, spec, folder, recipe.training)
    workers = recipe.evaluation.workers or recipe.training.workers
    # On a cluster of several machines the one that this runs on may have no GPU, or be small.
    shared = workers > 1 or cluster.cluster_address() is not None
    return _evaluated(recipe, folder, workers=workers if shared else None)


def run_here(
    recipe: Recipe, out: str | None = None, listener: Listener | None = None, frozen: FrozenParts | None = None
) -> Run:
    """Train and evaluate in this process, without Ray: what `train` does with one worker, bit for bit.

    For many short runs, each a Ray task of its own. After a crash, as `train`.

    Args:
        frozen: what earlier runs of this process loaded.
    """
    recipe, folder = settled_run(recipe, out)
    frozen = frozen or FrozenParts()
    if not folder.finished(folder.open()):
        loop.run(_job(recipe, folder, frozen=frozen), listener=listener)
    return _evaluated(recipe, folder, frozen)


def evaluate(run: str, overrides: Sequence[str] = (), benchmark: str | None = None, root: str | None = None) -> Run:
    """Evaluate a finished run in one pass over the pictures, and write `results.json` and `predictions.parquet` anew.

    Args:
        run: the run's folder or URL.
        overrides: of the sections `evaluation` and `storage` ("evaluation.split=val").
        benchmark: another one, by its name or path, over whose classes the run's prompts are laid; results then go to
            `transfer/<benchmark>` in the run's folder.
        root: folder in which the other benchmark is looked up; by default the one of the run's own.

    Raises:
        UserError: no finished run is there, or an override would make it another run; or what the run learned belongs
            to its own classes, and another benchmark is named.
    """
    for override in overrides:
        if override.partition(".")[0] not in ("evaluation", "storage"):
            raise UserError(
                f"command line: {override}: a finished run can't be changed; only evaluation.* and storage.* are free"
            )
    recipe, folder = finished_run(run, overrides)
    if benchmark is None:
        results = scoring.score(recipe, folder, workers=recipe.evaluation.workers)
    else:
        other = BenchmarkSettings(name=benchmark, root=root or recipe.benchmark.root)
        place = grounded(recipe.model_copy(update={"benchmark": other})).benchmark
        results = scoring.transfer(recipe, folder, place, workers=recipe.evaluation.workers)
    return Run(folder.url, folder.name, recipe.evaluation.split, results)


def finished_run(run: str, overrides: Sequence[str] = ()) -> tuple[Recipe, RunFolder]:
    """The recipe of the finished run in a folder or URL, and the folder.

    Raises:
        UserError: no run is there, or it isn't finished.
    """
    run = absolute(run)
    place = storage.join(run, RECIPE)
    if not storage.exists(place) or not storage.exists(storage.join(run, PROMPTS)):
        begun = "the run there is not finished" if storage.exists(place) else "no run there"
        raise UserError(f"{run}: {begun}; train one with `syncclip train RECIPE --out {run}`")
    recipe = Recipe.load(place, overrides)
    record = RunFolder(run, recipe.name, recipe.hash).record()
    return recipe, RunFolder(run, record.name if record is not None else recipe.name, recipe.hash)


def find_synthetic(recipe: Recipe, out: str | None = None) -> str:
    """Where the recipe's synthetic set lies: `training.synthetic`, else `out`, `out/synthetic`, or where `synthesise`
    puts it without `out`: the first that holds a plan.

    Raises:
        UserError: it is in none of these places (the sentence names the command that makes it), or several are named.
    """
    named = recipe.training.synthetic
    if isinstance(named, tuple):
        raise UserError(
            "training.synthetic lists several sets where only one can stand; make one of them: `syncclip shards merge`"
        )
    if named is not None:
        places = [named, storage.join(named, "synthetic")]
    else:
        places = [*([out, storage.join(out, "synthetic")] if out else []), storage.join(recipe.folder, "synthetic")]
    for place in map(absolute, places):
        if holds_set(place):
            return place
    raise UserError(
        f"there is no synthetic set in {' or '.join(places)}; first run `syncclip synth {recipe.argument} --out "
        f"{places[0]}`, or name a set with training.synthetic=DIR"
    )


def settled_run(recipe: Recipe, out: str | None = None) -> tuple[Recipe, RunFolder]:
    """The recipe with the set and amount that it will learn from written into it, and the run's folder.

    The folder's hash stands for all that decides the run: the recipe's own, and what the set's part shows.

    Raises:
        UserError: see `train`.
    """
    storage.configure(recipe.storage.options)
    recipe = grounded(recipe)
    identity = ""
    if learns_from_synthetic(recipe):
        try:
            recipe, identity = settled_sets(recipe, lambda one: find_synthetic(one, out))
        except UserError:
            load_benchmark(recipe.benchmark)  # if it isn't there either, that is the mistake to tell first
            raise
    else:
        recipe = recipe.with_values({"training.synthetic": None, "training.images_per_class": None})
    training = recipe.training
    method = training.method.rpartition(":")[2]  # of one's own, the class alone: ':' has a meaning in paths and URLs
    parts = [method, training.data, training.images_per_class, f"seed{training.seed}"]
    name = "-".join(str(part) for part in parts if part is not None)
    run_hash = digest([recipe.hash, identity])
    url = absolute(out or storage.join(recipe.folder, "runs", f"{name}-{run_hash[:8]}"))
    return recipe, RunFolder(url, name, run_hash, recipe.to_yaml())


def build(spec: dict[str, Any], rank: int, world_size: int) -> TrainJob:
    """One rank's job from plain data; runs on the workers.

    Raises:
        UserError: something that the recipe names is not there, for instance a method of one's own on this machine.
    """
    recipe = Recipe().with_values(spec["recipe"], "the recipe on a worker")
    return _job(recipe, RunFolder(spec["url"], spec["name"], spec["hash"], recipe.to_yaml()), rank, world_size)


def grounded(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths for the local folders that it names: Ray Train's workers run in another folder."""
    benchmark, backbone = recipe.benchmark, recipe.backbone
    own = benchmark.root is None and not known(benchmark.name)
    names = {
        "benchmark.root": benchmark.root,
        "benchmark.name": benchmark.name if own else None,
        "backbone.name": backbone.name.removeprefix("local-dir:") if backbone.name != EMBEDDED else None,
        "backbone.pretrained": backbone.pretrained,
    }
    names |= {f"training.real.{place}.url": one.url for place, one in enumerate(recipe.training.real)}
    there = {key: name for key, name in names.items() if name and Path(name).expanduser().exists()}
    return recipe.with_values({key: absolute(str(Path(name).expanduser())) for key, name in there.items()})


def absolute(url: str) -> str:
    """A local path made independent of the working folder, for workers may have another; URLs as they are.

    Raises:
        UserError: the path is relative, and this is a submitted Ray job, whose working folder is a temporary one.
    """
    if not storage.is_local(url):
        return url
    path = Path(storage.local_path(url))
    if not path.is_absolute() and "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        raise UserError(
            f"{url} is a relative path, which in a submitted job lies in a temporary folder; give an absolute path or "
            "a URL with --out or storage.root"
        )
    return os.path.normpath(Path.cwd() / path)


def _job(
    recipe: Recipe, folder: RunFolder, rank: int = 0, world_size: int = 1, frozen: FrozenParts | None = None
) -> TrainJob:
    parts = assemble(recipe, frozen)
    rate = recipe.methods.of(recipe.training.method).learning_rate
    validate = validation(recipe, parts) if recipe.training.keep_best == "validation" else None
    return TrainJob(folder, parts.method, stream(recipe, parts, rank, world_size), recipe.training, rate, validate)


def _evaluated(recipe: Recipe, folder: RunFolder, frozen: FrozenParts | None = None, workers: int | None = None) -> Run:
    return Run(folder.url, folder.name, recipe.evaluation.split, scoring.scored(recipe, folder, frozen, workers))
