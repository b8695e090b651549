"""Ten million images: the shards of a folder or bucket classified on Ray, a table beside each, then its marker."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.inference.answers import SCHEMA, classify
from syncclip.inference.model import BATCH, Model
from syncclip.inference.passes import Passed, ShardJob, ShardMarker, ShardPass
from syncclip.recipe.recipe import Recipe, digest
from syncclip.runs.classes import read_classes
from syncclip.runs.resolve import readable_run
from syncclip.storage.places import absolute
from syncclip.synthesis.settings import ONE_ACTOR, Pool
from syncclip.training.run_folder import PROMPTS, RunFolder

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
    `00000.tar/000000017.jpg`. Killed at any time, the same call goes on with the shards that have none.

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
        UserError: there is no tar or no run; tables there answer something else; or shards failed for good.
    """
    url = absolute(url)
    sizes = {name: size for name, size in sorted(storage.sizes(url).items()) if name.endswith(".tar")}
    if not sizes:
        raise UserError(f"{url}: no tar is in this folder; give the folder of the shards, or leave out --actors")
    recipe, folder, run = readable_run(run)
    asked = digest([*identity(recipe, folder), list(classes), top, batch, pool.device])
    out, threads = absolute(out or url), recipe.training.threads
    with storage.lease(out, "classify") as hold:
        job = _Job(
            run=run,
            url=url,
            out=out,
            sizes=sizes,
            asked=asked,
            top=top,
            batch=batch,
            threads=threads,
            device=pool.device,
            classes=classes,
            places=places or {},
            lease=hold.token,
        )
        job.work_off(partial(ShardClassifier, job), pool, "classify")
        storage.require(out, [name[:-4] + ending for name in sizes for ending in (TABLE, MARKER)])
        return job.passed(job.done())


def identity(recipe: Recipe, folder: RunFolder) -> list[Any]:
    """What decides a finished run's answers, but for how it is asked: its recipe, prompts, classes and CLIP."""
    prompts = hashlib.sha256(storage.read_bytes(folder.path(PROMPTS))).hexdigest()
    return [recipe.hash, prompts, read_classes(recipe, folder).model_dump(mode="json")]


class ShardClassifier(ShardPass):
    """Writes tables of answers."""

    job: _Job

    def compute(self, name: str) -> tuple[int, pa.Table]:
        job = self.job
        place = storage.join(job.url, name)
        found = classify(self.model(), [place], job.top, job.batch, unreadable=storage.UnreachableError)
        rows = [answer.row for answer in found]
        for row in rows:
            row["image"] = row["image"].removeprefix(storage.join(job.url, ""))
        return len(rows), pa.Table.from_pylist(rows, SCHEMA)

    def write(self, name: str, content: pa.Table) -> ShardMarker:
        job, unread = self.job, content.num_rows - content["error"].null_count
        storage.write_table(job.place(name, TABLE), content)
        return ShardMarker(asked=job.asked, shard_bytes=job.sizes[name], images=content.num_rows, unread=unread)

    def loaded(self) -> Model:
        model = super().loaded()
        return model.with_classes(self.job.classes) if self.job.classes else model
