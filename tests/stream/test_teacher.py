"""A teacher's probabilities in the stream: those of the very image that is shown, on any number of ranks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.shards.cache import ShardCache
from syncclip.shards.reader import ShardSet
from syncclip.stream.batch import Batch
from syncclip.stream.loader import batches
from syncclip.stream.teacher import TEACHER, VECTORS, TaughtShard, Teacher, TeacherFiles, probabilities_name
from tests.stream.test_mixed import damaged, shown, stored, stream

CLASSES = 5


def write_teacher(url: str, images: ShardSet) -> str:
    """Files of a teacher whose first probability tells the sample, of a set of five classes."""
    shards = []
    for number, one in images.shards.items():
        rows = np.flatnonzero(images.samples.shard == number)
        rows = rows[np.argsort(images.samples.place[rows])]
        found = np.zeros((len(rows), CLASSES), np.float32)
        found[:, 0] = told = images.samples.index[rows] / 4096
        found[:, 1] = 1 - told
        data = save({"probabilities": found})
        storage.write_bytes(storage.join(url, probabilities_name(number)), data)
        digest = hashlib.sha256(data).hexdigest()
        shards.append(TaughtShard(number, len(rows), len(data), digest, one.sha256))
    vectors = save({"class_vectors": np.eye(CLASSES, 7, dtype=np.float32)})
    storage.write_bytes(storage.join(url, VECTORS), vectors)
    files = TeacherFiles(
        name="teacher",
        digest="digest",
        classnames=tuple("abcde"),
        dim=7,
        vectors_sha256=hashlib.sha256(vectors).hexdigest(),
        shards=tuple(shards),
    )
    storage.write_with_checksum(storage.join(url, TEACHER), files.model_dump_json().encode())
    return url


def opened(folder: Path, images: ShardSet) -> Teacher:
    return Teacher(write_teacher(str(folder / "teacher"), images), ShardCache())


def samples_told(batch: Batch) -> list[int | None]:
    """Of which sample the teacher speaks; None where of none."""
    assert batch.teacher is not None and batch.teacher.dtype == torch.float32
    sums = batch.teacher.sum(dim=1)
    assert torch.all((sums == 0) | ((sums - 1).abs() < 1e-6))
    told = (batch.teacher[:, 0] * 4096).round().long().tolist()
    return [sample if known else None for sample, known in zip(told, sums.tolist(), strict=True)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"window": 1}, {"data": "synthetic"}, {"images_per_class": 2}, {"novel": ()}, {"window": 2, "seed": 4}],
)
def test_each_synthetic_image_comes_with_what_the_teacher_says_of_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    mixed = stream(teacher=opened(tmp_path, stored(5, 6, 2)), **changes)
    plain = stream(**changes)
    for step in range(mixed.steps_per_epoch):
        batch, real = mixed.batch(1, step), mixed.batch(1, step).sizes[0]
        assert shown(batch) == shown(plain.batch(1, step))
        assert samples_told(batch) == [None] * real + [sample for sample, *_ in shown(batch)[real:]]


def test_real_images_alone_have_no_teacher(tmp_path: Path) -> None:
    assert stream(teacher=opened(tmp_path, stored(5, 6, 2)), data="real").batch(0, 0).teacher is None
    assert stream().batch(0, 0).teacher is None


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_what_one_rank_has(tmp_path: Path, world: int) -> None:
    teacher = opened(tmp_path, stored(5, 6, 2))
    whole = stream(teacher=teacher).batch(0, 1)
    assert whole.teacher is not None
    parts = [stream(teacher=teacher, rank=rank, world_size=world).batch(0, 1).teacher for rank in range(world)]
    for rank, part in enumerate(parts):
        assert part is not None and torch.equal(part, whole.teacher[rank::world])


def test_loader_processes_give_what_this_one_gives(tmp_path: Path) -> None:
    teacher = opened(tmp_path, stored(5, 6, 2))
    made = [list(batches(stream(teacher=teacher), 2, processes=processes)) for processes in (0, 2)]
    for (*place, one), (*other_place, other) in zip(*made, strict=True):
        assert place == other_place and one.teacher is not None and other.teacher is not None
        assert torch.equal(one.teacher, other.teacher)


def test_an_image_that_takes_a_damaged_ones_place_brings_its_own_probabilities(tmp_path: Path) -> None:
    images = damaged(tmp_path, [7, 12])
    mixed = stream(teacher=opened(tmp_path, images), synthetic=images)
    for epoch in range(6):
        for step in range(mixed.steps_per_epoch):
            batch = mixed.batch(epoch, step)
            assert samples_told(batch)[8:] == [sample for sample, *_ in shown(batch)[8:]]
    assert mixed.corruption.images == 2


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_named(tmp_path: Path, harm: str) -> None:
    mixed = stream(teacher=opened(tmp_path, stored(5, 6, 2)), window=1)
    for file in (tmp_path / "teacher").glob("0*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data if harm == "flipped" else data[:-40])
        if harm == "gone":
            file.unlink()
    with pytest.raises(UserError, match=r"teacher/0000\d\.safetensors: missing or damaged"):
        mixed.batch(0, 0)


def test_class_vectors_are_read_whole_or_refused(tmp_path: Path) -> None:
    teacher = opened(tmp_path, stored(5, 6, 2))
    assert np.array_equal(teacher.class_vectors(), np.eye(CLASSES, 7))
    file = tmp_path / "teacher" / VECTORS
    file.write_bytes(file.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(UserError, match=r"class_vectors\.safetensors: missing or damaged"):
        teacher.class_vectors()
    file.unlink()
    with pytest.raises(UserError, match=r"class_vectors\.safetensors"):
        teacher.class_vectors()


def test_a_folder_without_a_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing or incomplete"):
        Teacher(str(tmp_path), ShardCache())
