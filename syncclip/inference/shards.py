"""Ten million images: the shards of a folder or bucket, classified on Ray; beside each its predictions and a marker."""

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
from syncclip.inference.markers import problems_of_files
from syncclip.inference.model import BATCH, Model
from syncclip.inference.passes import Passed, ShardJob, ShardPass, ShardPredictions
from syncclip.inference.predictions import SCHEMA, classify_sources
from syncclip.inference.sources import tar_images
from syncclip.recipe.recipe import Recipe, digest
from syncclip.runs.classes import read_classes
from syncclip.runs.resolve import readable_run
from syncclip.shards.index import committed_shards
from syncclip.shards.markers import marked, shard_name
from syncclip.storage.urls import absolute
from syncclip.training.run_folder import PROMPTS, RunFolder
from syncclip.workers.settings import ONE_ACTOR, Pool

TABLE, MARKER = "_answers.parquet", "_answers.json"
"""What the files of a shard end with, in place of `.tar`."""


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
    places: Mapping[str, str | None] | None = None,
) -> Passed:
    """Classify the images of all tars in a folder, on a pool of Ray's actors.

    Of `00000.tar` the table is `00000_answers.parquet`, its columns `answers.SCHEMA`, with images called
    `00000.tar/000000017.jpg`. Killed at any time, the same call goes on with the shards that have none, and with those
    whose tar or table has other content than its marker records.

    Args:
        run: of a finished run, as `load` takes it.
        url: of the tars; one that every machine sees, where several work.
        out: folder or URL of the tables; by default beside the tars.
        classes: instead of the run's own.
        top: classes of each image.
        batch: images in one forward pass; like the device, it may decide a probability's last bits.
        pool: who works.
        places: `backbone` and `pretrained` of `load`, where the CLIP has moved.

    Raises:
        UserError: there is no tar or no run; a tar is not the one that its commit marker describes; tables there are of
            another run, other classes or settings; or shards failed for good.
    """
    url = absolute(url)
    tars = _tars(url, storage.sizes(url))
    if not tars:
        raise UserError(f"{url}: no tar is in this folder; give the folder of the shards, or leave out --actors")
    recipe, folder, run = readable_run(run)
    asked = digest([*identity(recipe, folder), list(classes), top, batch, pool.device])
    out, threads = absolute(out or url), recipe.training.threads
    with storage.lease(out, "classify") as hold:
        job = _Job(
            run=run,
            url=url,
            out=out,
            tars=tars,
            asked=asked,
            top=top,
            batch=batch,
            threads=threads,
            device=pool.device,
            classes=classes,
            places=places or {},
            lease=hold.token,
        )
        job.run_on(partial(ShardClassifier, job), pool, "classify")
        storage.require(out, [name[:-4] + ending for name in tars for ending in (TABLE, MARKER)])
        return job.passed(job.done())


def _tars(url: str, names: Collection[str]) -> dict[str, str | None]:
    """The tars among a folder's files, as `ShardJob.tars`.

    Raises:
        UserError: one is not as its commit marker describes it.
    """
    committed = {shard_name(number): one.sha256 for number, one in committed_shards(url).items()}
    tars = sorted(name for name in names if name.endswith(".tar"))
    described = {shard_name(number) for number in marked(names)}
    if wrong := [name for name in tars if name in described - committed.keys()]:
        raise UserError(_not_as_described(storage.join(url, wrong[0])))
    return {name: committed.get(name) for name in tars}


def _not_as_described(tar: str) -> str:
    return f"{tar} is not the tar that its commit marker describes; see `syncclip verify`"


def predictions_among(names: Collection[str]) -> set[str]:
    """Of the files of a folder, those of predictions, and the tars beside them where no commit marker describes any."""
    found = {name for name in names if name.endswith((TABLE, MARKER))}
    if found and not marked(names):
        found |= {name for name in names if name.endswith(".tar")}
    return found


def problems_of_predictions(url: str, names: Collection[str]) -> Iterator[str]:
    """What is wrong with the predictions of `classify_shards` among a folder's files, a sentence each.

    Each marker, each table and each tar without a commit marker is read. Missing predictions of a tar are a problem.
    """
    if not predictions_among(names):
        return
    try:
        tars = _tars(url, names)
    except UserError:  # the check of the set reports it
        tars = {}
    yield from problems_of_files(url, names, (TABLE, MARKER), tars)


def identity(recipe: Recipe, folder: RunFolder) -> list[Any]:
    """What decides a finished run's answers, but for how it is asked: its recipe, prompts, classes and CLIP."""
    prompts = hashlib.sha256(storage.read_sealed(folder.path(PROMPTS), folder.owner)).hexdigest()
    return [recipe.hash, prompts, read_classes(folder).model_dump(mode="json")]


class ShardClassifier(ShardPass):
    """Writes tables of answers."""

    job: _Job

    def compute(self, name: str) -> ShardPredictions:
        job = self.job
        place, known = storage.join(job.url, name), job.tars[name]
        with storage.open_read(place, known) as file:
            digest_of_tar = storage.file_sha256(file)
            if known not in (None, digest_of_tar):
                raise UserError(_not_as_described(place))
            file.seek(0)
            images = tar_images(place, file)
            found = classify_sources(self.model(), images, job.top, job.batch, unreadable=storage.UnreachableError)
            rows = [answer.row for answer in found]
        for row in rows:
            row["image"] = row["image"].removeprefix(storage.join(job.url, ""))
        table, buffer = pa.Table.from_pylist(rows, SCHEMA), io.BytesIO()
        pq.write_table(table, buffer)
        unread = table.num_rows - table["error"].null_count
        return ShardPredictions(buffer.getvalue(), table.num_rows, unread, digest_of_tar)

    def loaded(self) -> Model:
        model = super().loaded()
        return model.with_classes(self.job.classes) if self.job.classes else model
