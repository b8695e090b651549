"""A teacher's soft labels for a synthetic dataset, computed per shard on Ray."""

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
from syncclip.inference.model import BATCH, load, read_ahead
from syncclip.inference.passes import (
    Passed,
    ShardJob,
    ShardMarker,
    ShardPass,
    ShardPredictions,
    parse_marker,
    problems_of_files,
)
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
    REMEDY,
    TEACHER,
    VECTORS,
    Probabilities,
    Teacher,
    TeacherFiles,
    TeacherShard,
    read_teacher,
)
from syncclip.synthetic_sets.imported import read_whole_set
from syncclip.workers.settings import ONE_ACTOR, Pool

_SHARD = re.compile(r"[0-9]{5,18}\.(safetensors|json)")


@dataclass(frozen=True, kw_only=True)
class _Job(ShardJob):
    FILE, MARKER, VERB = ".safetensors", ".json", "processed by the teacher"

    shards: Mapping[str, Shard]


def write_soft_labels(
    run: str,
    url: str,
    out: str | None = None,
    *,
    batch: int = BATCH,
    pool: Pool = ONE_ACTOR,
    backbone_arguments: Mapping[str, str | None] | None = None,
) -> Passed:
    """Write a teacher's class probabilities for all images of a synthetic dataset, for use as `training.teacher`.

    Repeat the call to resume after a crash, or to process images that were added to the synthetic dataset.

    Args:
        run: finished run with the same classes, as for `load`.
        url: folder or URL of the synthetic dataset.
        out: folder or URL of the soft labels; None: `teachers/<name of the run>` in the dataset's folder.
        batch, pool, backbone_arguments: as for `shards.classify_shards`.

    Raises:
        UserError: the run is missing or has different classes, the dataset is missing or incomplete, existing files
            belong to a different teacher, or shards failed permanently.
    """
    url = absolute(url)
    plan, (recipe, folder, run) = read_whole_set(url), readable_run(run)
    classnames = read_classes(folder).classnames
    if classnames != list(plan.classnames):
        raise UserError(
            f"{run}: the teacher's {len(classnames)} classes differ from the {plan.classes} classes of {url}; train "
            "a teacher on the same dataset"
        )
    shards = {number: shard for number, shard in committed_shards(url, plan.owner).items() if number in plan.shards()}
    named = {shard_name(number): shard for number, shard in shards.items()}
    out = absolute(out or storage.join(url, "teachers", folder.name))
    job_checksum, threads = digest([*identity(recipe, folder), batch, pool.device]), recipe.training.threads
    with storage.lock(out, "teacher") as hold:
        job = _Job(
            run=run,
            url=url,
            out=out,
            tars={name: shard.sha256 for name, shard in named.items()},
            job_checksum=job_checksum,
            batch=batch,
            threads=threads,
            device=pool.device,
            backbone_arguments=backbone_arguments or {},
            lock_token=hold.token,
            shards=named,
        )
        job.run_on(partial(ShardTeacher, job), pool, "teacher")
        done = job.done()
        _finish(job, folder.name, classnames, [(named[name].shard, marker) for name, marker in done.items()])
        storage.require(out, [TEACHER, VECTORS, *(name[:-4] + job.FILE for name in done)])
        return job.passed(done)


def _finish(job: _Job, name: str, classnames: list[str], markers: list[tuple[int, ShardMarker]]) -> None:
    """Write the class vectors and the index of all files, unless both are up to date."""
    shards = tuple(
        TeacherShard(shard, marker.images, marker.bytes, marker.sha256, marker.tar_sha256) for shard, marker in markers
    )
    index_url, vectors_url = storage.join(job.out, TEACHER), storage.join(job.out, VECTORS)
    existing = storage.read_document(index_url, TeacherFiles, REMEDY)
    sha256 = hashlib.sha256(storage.read_bytes(vectors_url)).hexdigest() if storage.exists(vectors_url) else ""
    if existing is not None and (existing.digest, existing.shards, existing.vectors_sha256) == (
        job.job_checksum,
        shards,
        sha256,
    ):
        return
    with deterministic(job.threads):
        vectors = load(job.run, **job.backbone_arguments, device="cpu").text_features()
    data = save({"class_vectors": vectors})
    storage.write_bytes(vectors_url, data)
    index = TeacherFiles(
        name=name,
        digest=job.job_checksum,
        classnames=tuple(classnames),
        dim=vectors.shape[1],
        vectors_sha256=hashlib.sha256(data).hexdigest(),
        shards=shards,
    )
    storage.write_with_checksum(index_url, index.model_dump_json().encode())


def teacher_files_among(names: Collection[str]) -> set[str]:
    """Return the names of a teacher's files in a folder."""
    shards = {name for name in names if _SHARD.fullmatch(name)}
    stems = {name.rpartition(".")[0] for name in shards if name.endswith(_Job.FILE)}
    if TEACHER not in names and not any(stem + _Job.MARKER in shards for stem in stems):
        return set()
    return shards | ({TEACHER, VECTORS} & {*names})


def problems_of_teacher(url: str, names: Collection[str]) -> Iterator[str]:
    """Verify a teacher's files in a folder, and yield one message per problem."""
    if not (files := teacher_files_among(names)):
        return
    yield from problems_of_files(url, files - {TEACHER, VECTORS}, (_Job.FILE, _Job.MARKER), {})
    index_url = storage.join(url, TEACHER)
    if TEACHER not in names:
        yield f"{index_url} is missing because `syncclip teacher` did not finish; run the same command to resume"
        return
    try:
        index = read_teacher(url)
    except UserError as error:
        yield str(error)
        return
    try:
        Teacher(url, ShardCache()).class_vectors()
    except UserError as error:
        yield str(error)
    for shard in index.shards:
        marker_url = storage.join(url, f"{shard.shard:05d}{_Job.MARKER}")
        with suppress(storage.DamagedError, storage.MissingError):  # reported above
            marker = parse_marker(storage.read_bytes(marker_url), marker_url, shard_name(shard.shard))
            if (marker.job_checksum, marker.sha256, marker.tar_sha256) != (
                index.digest,
                shard.sha256,
                shard.tar_sha256,
            ):
                yield f"{marker_url} and {index_url} belong to different jobs; files were swapped"
    listed = {f"{shard.shard:05d}" for shard in index.shards}
    for name in sorted(listed - {file.rpartition(".")[0] for file in files}):
        yield f"{storage.join(url, name)}{_Job.FILE} is missing, but {index_url} lists it"


class ShardTeacher(ShardPass):
    """Worker that writes class probabilities."""

    job: _Job

    def compute(self, name: str) -> ShardPredictions:
        job, shard, model = self.job, self.job.shards[name], self.model()
        url = storage.join(job.url, name)
        tar = storage.read_bytes(url, sha256=shard.sha256)
        if hashlib.sha256(tar).hexdigest() != shard.sha256:
            raise UserError(f"{url}: the tar does not match its commit marker; run `syncclip shards verify`")
        rows = read_table(job.url, shard.shard, shard.table_sha256).to_pylist()

        def pixels(row: Mapping[str, int]) -> Tensor | None:
            data = tar[row["jpg_offset"] : row["jpg_offset"] + row["jpg_size"]]
            try:
                return model.preprocess(decode_image(data, f"{url}:{sample_key(row['index'])}.jpg"))
            except UnreadableImageError:
                return None  # training replaces the image with a different one

        probabilities: Probabilities = np.zeros((len(rows), len(model.classes)), np.float32)
        unread, start = 0, 0
        for images in read_ahead(pixels, rows, job.batch):
            readable = [start + number for number, image in enumerate(images) if image is not None]
            if readable:
                batch = torch.stack([image for image in images if image is not None])
                probabilities[readable] = model.batch_probabilities(batch)
            start, unread = start + len(images), unread + len(images) - len(readable)
        return ShardPredictions(save({"probabilities": probabilities}), len(rows), unread, shard.sha256)
