"""Batch inference on Ray, which writes predictions and a marker for each shard in a folder or bucket."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.inference.model import BATCH, Model
from syncclip.inference.passes import Passed, ShardJob, ShardPass, ShardPredictions, problems_of_files
from syncclip.inference.predictions import SCHEMA, classify_sources
from syncclip.inference.sources import tar_images
from syncclip.recipe.recipe import Recipe, digest
from syncclip.runs.classes import read_classes
from syncclip.runs.resolve import readable_run
from syncclip.shards.index import committed_shards
from syncclip.shards.markers import marked_shards, shard_name
from syncclip.storage.urls import absolute
from syncclip.training.run_folder import PROMPTS, RunFolder
from syncclip.workers.settings import ONE_ACTOR, Pool

TABLE, MARKER = "_predictions.parquet", "_predictions.json"
"""Suffixes that replace `.tar` in the names of a shard's predictions table and marker."""


@dataclass(frozen=True, kw_only=True)
class _Job(ShardJob):
    FILE, MARKER, VERB = TABLE, MARKER, "classified"

    top: int
    classes: Sequence[str]


def classify_shards(
    run: str,
    url: str,
    out: str | None = None,
    *,
    classes: Sequence[str] = (),
    top: int = 5,
    batch: int = BATCH,
    pool: Pool = ONE_ACTOR,
    backbone_arguments: Mapping[str, str | None] | None = None,
) -> Passed:
    """Use Ray actors to classify the images in all tars of a folder.

    The predictions for `00000.tar` are written to `00000_predictions.parquet`, with the columns in
    `predictions.SCHEMA`; image names have the form `00000.tar/000000017.jpg`. After a crash, repeat the call to resume.

    Args:
        run: finished run, as for `load`.
        url: folder or URL of the tars, accessible from all machines.
        out: folder or URL of the tables; None: the folder of the tars.
        classes: class names to use instead of the run's.
        top: number of classes per image.
        batch: batch size; batch size and device may affect the least significant bits of the probabilities.
        pool: number and resources of actors.
        backbone_arguments: `backbone` and `pretrained` arguments of `load`, if changed since training.

    Raises:
        UserError: there are no tars or no run, a tar does not match its commit marker, existing tables belong to a
            different run or have different classes or settings, or shards failed permanently.
    """
    url = absolute(url)
    tars = _tars(url, storage.sizes(url))
    if not tars:
        raise UserError(f"{url}: no tars in this folder; use a folder of shards, or omit --actors")
    recipe, folder, run = readable_run(run)
    job_checksum = digest([*identity(recipe, folder), list(classes), top, batch, pool.device])
    out, threads = absolute(out or url), recipe.training.threads
    with storage.lock(out, "classify") as hold:
        job = _Job(
            run=run,
            url=url,
            out=out,
            tars=tars,
            job_checksum=job_checksum,
            top=top,
            batch=batch,
            threads=threads,
            device=pool.device,
            classes=classes,
            backbone_arguments=backbone_arguments or {},
            lock_token=hold.token,
        )
        job.run_on(partial(ShardClassifier, job), pool, "classify")
        storage.require(out, [name[:-4] + ending for name in tars for ending in (TABLE, MARKER)])
        return job.passed(job.done())


def _tars(url: str, names: Collection[str]) -> dict[str, str | None]:
    """Return the tars in a folder, as in `ShardJob.tars`.

    Raises:
        UserError: a tar does not match its commit marker.
    """
    committed = {shard_name(number): shard.sha256 for number, shard in committed_shards(url).items()}
    tars = sorted(name for name in names if name.endswith(".tar"))
    described = {shard_name(number) for number in marked_shards(names)}
    if wrong := [name for name in tars if name in described - committed.keys()]:
        raise UserError(_mismatch(storage.join(url, wrong[0])))
    return {name: committed.get(name) for name in tars}


def _mismatch(tar: str) -> str:
    return f"{tar} does not match its commit marker; run `syncclip verify`"


def predictions_among(names: Collection[str]) -> set[str]:
    """Return a folder's prediction tables and markers, plus its tars if there are no commit markers."""
    files = {name for name in names if name.endswith((TABLE, MARKER))}
    if files and not marked_shards(names):
        files |= {name for name in names if name.endswith(".tar")}
    return files


def problems_of_predictions(url: str, names: Collection[str]) -> Iterator[str]:
    """Verify the predictions of `classify_shards` in a folder, and yield one message per problem."""
    if not predictions_among(names):
        return
    try:
        tars = _tars(url, names)
    except UserError:  # reported by the verification of the synthetic dataset
        tars = {}
    yield from problems_of_files(url, names, (TABLE, MARKER), tars)


def identity(recipe: Recipe, folder: RunFolder) -> list[Any]:
    """Return the parts of a finished run that determine the predictions: recipe, prompts, classes and CLIP model."""
    prompts = hashlib.sha256(storage.read_verified(folder.path(PROMPTS), folder.owner)).hexdigest()
    return [recipe.hash, prompts, read_classes(folder).model_dump(mode="json")]


class ShardClassifier(ShardPass):
    """Worker that writes prediction tables."""

    job: _Job

    def compute(self, name: str) -> ShardPredictions:
        job = self.job
        tar, expected = storage.join(job.url, name), job.tars[name]
        with storage.open_read(tar, expected) as file:
            tar_sha256 = storage.file_sha256(file)
            if expected not in (None, tar_sha256):
                raise UserError(_mismatch(tar))
            file.seek(0)
            images, transient = tar_images(tar, file), storage.UnreachableError
            predictions = classify_sources(self.model(), images, job.top, job.batch, raised=transient)
            rows = [prediction.row for prediction in predictions]
        for row in rows:
            row["image"] = row["image"].removeprefix(storage.join(job.url, ""))
        table, buffer = pa.Table.from_pylist(rows, SCHEMA), io.BytesIO()
        pq.write_table(table, buffer)
        unread = table.num_rows - table["error"].null_count
        return ShardPredictions(buffer.getvalue(), table.num_rows, unread, tar_sha256)

    def loaded(self) -> Model:
        model = super().loaded()
        return model.with_classes(self.job.classes) if self.job.classes else model
