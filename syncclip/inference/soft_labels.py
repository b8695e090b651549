"""What a teacher says of a synthetic set, written once: its probabilities of every image, shard by shard, on Ray."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.inference.markers import ShardMarker, parse_marker, problems_of_files
from syncclip.inference.model import BATCH, load, read_ahead
from syncclip.inference.passes import Passed, ShardJob, ShardPass, ShardPredictions
from syncclip.inference.shards import identity
from syncclip.recipe.recipe import digest
from syncclip.runs.classes import read_classes
from syncclip.runs.resolve import readable_run
from syncclip.runtime.determinism import deterministic
from syncclip.shards.cache import ShardCache
from syncclip.shards.images import UnreadableImageError, decode_image
from syncclip.shards.index import committed_shards
from syncclip.shards.markers import Shard, sample_key, shard_name
from syncclip.shards.tables import read_table
from syncclip.storage.urls import absolute
from syncclip.stream.teacher import (
    AGAIN,
    TEACHER,
    VECTORS,
    Probabilities,
    TaughtShard,
    Teacher,
    TeacherFiles,
    read_teacher,
)
from syncclip.synthetic_sets.imported import read_whole_set
from syncclip.workers.settings import ONE_ACTOR, Pool

_SHARD = re.compile(r"[0-9]{5,18}\.(safetensors|json)")


@dataclass(frozen=True, kw_only=True)
class _Job(ShardJob):
    FILE, MARKER, VERB = ".safetensors", ".json", "read by the teacher"

    shards: Mapping[str, Shard]


def write_soft_labels(
    run: str,
    url: str,
    out: str | None = None,
    *,
    batch: int = BATCH,
    pool: Pool = ONE_ACTOR,
    places: Mapping[str, str | None] | None = None,
) -> Passed:
    """Write a teacher's probabilities of all images of a synthetic set, for `training.teacher`.

    The teacher is a finished run; one of the method `zeroshot` is a CLIP of open_clip with the dataset's sentences.
    Killed at any time, the same call goes on with the shards that have no file, and ends with the same bytes; so it
    does where the set has grown.

    Args:
        run: the teacher's run, of the set's classes, as `load` takes it.
        url: folder or URL of the set.
        out: of the files; by default `teachers/<name of the run>` in the set's folder.
        batch, pool, places: as `shards.classify_shards` takes them.

    Raises:
        UserError: there is no such run or whole set, or it is of other classes; files there are another teacher's; or
            shards failed for good.
    """
    url = absolute(url)
    plan, (recipe, folder, run) = read_whole_set(url), readable_run(run)
    known = read_classes(folder).classnames
    if known != list(plan.classnames):
        raise UserError(
            f"{run}: this teacher tells {len(known)} classes apart that are not the {plan.classes} of {url}; train "
            "one on the set's dataset"
        )
    shards = {number: one for number, one in committed_shards(url, plan.owner).items() if number in plan.shards()}
    named = {shard_name(number): one for number, one in shards.items()}
    out = absolute(out or storage.join(url, "teachers", folder.name))
    asked, threads = digest([*identity(recipe, folder), batch, pool.device]), recipe.training.threads
    with storage.lease(out, "teacher") as hold:
        job = _Job(
            run=run,
            url=url,
            out=out,
            tars={name: one.sha256 for name, one in named.items()},
            asked=asked,
            batch=batch,
            threads=threads,
            device=pool.device,
            places=places or {},
            lease=hold.token,
            shards=named,
        )
        job.run_on(partial(ShardTeacher, job), pool, "teacher")
        done = job.done()
        _finish(job, folder.name, known, [(named[name].shard, one) for name, one in done.items()])
        storage.require(out, [TEACHER, VECTORS, *(name[:-4] + job.FILE for name in done)])
        return job.passed(done)


def _finish(job: _Job, name: str, classnames: list[str], markers: list[tuple[int, ShardMarker]]) -> None:
    """Write the class vectors, and what tells of all files, where they aren't there yet."""
    shards = tuple(TaughtShard(shard, one.images, one.bytes, one.sha256, one.tar_sha256) for shard, one in markers)
    place = storage.join(job.out, TEACHER)
    there = storage.read_document(place, TeacherFiles, AGAIN)
    vectors_place = storage.join(job.out, VECTORS)
    known = hashlib.sha256(storage.read_bytes(vectors_place)).hexdigest() if storage.exists(vectors_place) else ""
    if there is not None and (there.digest, there.shards, there.vectors_sha256) == (job.asked, shards, known):
        return
    with deterministic(job.threads):
        vectors = load(job.run, **job.places, device="cpu").text_features()
    data = save({"class_vectors": vectors})
    storage.write_bytes(vectors_place, data)
    told = TeacherFiles(
        name=name,
        digest=job.asked,
        classnames=tuple(classnames),
        dim=vectors.shape[1],
        vectors_sha256=hashlib.sha256(data).hexdigest(),
        shards=shards,
    )
    storage.write_sealed(place, told.model_dump_json().encode())


def teacher_files_among(names: Collection[str]) -> set[str]:
    """Of the files of a folder, those of a teacher."""
    shards = {name for name in names if _SHARD.fullmatch(name)}
    whole = {name.rpartition(".")[0] for name in shards if name.endswith(_Job.FILE)}
    if TEACHER not in names and not any(name in shards for name in (stem + _Job.MARKER for stem in whole)):
        return set()
    return shards | ({TEACHER, VECTORS} & {*names})


def problems_of_teacher(url: str, names: Collection[str]) -> Iterator[str]:
    """What is wrong with the teacher's files among a folder's files, a sentence each; each of them is read."""
    if not (files := teacher_files_among(names)):
        return
    yield from problems_of_files(url, files - {TEACHER, VECTORS}, (_Job.FILE, _Job.MARKER), {})
    whole = storage.join(url, TEACHER)
    if TEACHER not in names:
        yield f"{whole} is missing, so these files are unfinished; run the same `syncclip teacher` again"
        return
    try:
        found = read_teacher(url)
    except UserError as error:
        yield str(error)
        return
    try:
        Teacher(url, ShardCache()).class_vectors()
    except UserError as error:
        yield str(error)
    for one in found.shards:
        place = storage.join(url, f"{one.shard:05d}{_Job.MARKER}")
        with suppress(storage.DamagedError, storage.MissingError):  # reported above
            marker = parse_marker(storage.read_bytes(place), place, shard_name(one.shard))
            if (marker.asked, marker.sha256, marker.tar_sha256) != (found.digest, one.sha256, one.tar_sha256):
                yield f"{place} and {whole} are of different passes: files were exchanged"
    shards = {f"{one.shard:05d}" for one in found.shards}
    for name in sorted(shards - {file.rpartition(".")[0] for file in files}):
        yield f"{storage.join(url, name)}{_Job.FILE} is missing, though {whole} lists it"


class ShardTeacher(ShardPass):
    """Writes probabilities."""

    job: _Job

    def compute(self, name: str) -> ShardPredictions:
        job, shard, model = self.job, self.job.shards[name], self.model()
        place = storage.join(job.url, name)
        tar = storage.read_bytes(place, sha256=shard.sha256)
        if hashlib.sha256(tar).hexdigest() != shard.sha256:
            raise UserError(f"{place}: its bytes are not those of its marker; see `syncclip shards verify`")
        rows = read_table(job.url, shard.shard, shard.table_sha256).to_pylist()

        def pixels(row: Mapping[str, int]) -> Tensor | None:
            data = tar[row["jpg_offset"] : row["jpg_offset"] + row["jpg_size"]]
            try:
                return model.preprocess(decode_image(data, f"{place}:{sample_key(row['index'])}.jpg"))
            except UnreadableImageError:
                return None  # a training replaces it by another one

        found: Probabilities = np.zeros((len(rows), len(model.classes)), np.float32)
        unread, begin = 0, 0
        for images in read_ahead(pixels, rows, job.batch):
            there = [begin + number for number, one in enumerate(images) if one is not None]
            if there:
                found[there] = model.batch_probabilities(torch.stack([one for one in images if one is not None]))
            begin, unread = begin + len(images), unread + len(images) - len(there)
        return ShardPredictions(save({"probabilities": found}), len(rows), unread, shard.sha256)
