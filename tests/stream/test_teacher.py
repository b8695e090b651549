"""Soft labels in the stream: those of each image, for any number of ranks."""

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
from syncclip.stream.teacher import TEACHER, VECTORS, Teacher, TeacherFiles, TeacherShard, probabilities_name
from tests.stream.test_mixed import damaged, shown, stored, stream

CLASSES = 5


def write_teacher(folder: Path, images: ShardSet) -> Teacher:
    """Write and open teacher files in which the probability of the first class encodes the sample index."""
    url, shards = str(folder / "teacher"), []
    for number, shard in images.shards.items():
        rows = np.flatnonzero(images.samples.shard == number)
        rows = rows[np.argsort(images.samples.place[rows])]
        probabilities = np.zeros((len(rows), CLASSES), np.float32)
        probabilities[:, 0] = images.samples.index[rows] / 4096
        probabilities[:, 1] = 1 - probabilities[:, 0]
        data = save({"probabilities": probabilities})
        storage.write_bytes(storage.join(url, probabilities_name(number)), data)
        shards.append(TeacherShard(number, len(rows), len(data), hashlib.sha256(data).hexdigest(), shard.sha256))
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
    return Teacher(url, ShardCache())


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    return write_teacher(tmp_path, stored(5, 6, 2))


def labelled_samples(batch: Batch) -> list[int | None]:
    """Decode the sample index from each image's soft labels; None without soft labels."""
    assert batch.teacher is not None and batch.teacher.dtype == torch.float32
    sums = batch.teacher.sum(dim=1)
    assert torch.all((sums == 0) | ((sums - 1).abs() < 1e-6))
    indices = (batch.teacher[:, 0] * 4096).round().long().tolist()
    return [index if total else None for index, total in zip(indices, sums.tolist(), strict=True)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"window": 1}, {"data": "synthetic"}, {"images_per_class": 2}, {"novel": ()}, {"window": 2, "seed": 4}],
)
def test_each_synthetic_image_has_its_soft_labels(teacher: Teacher, changes: dict[str, Any]) -> None:
    mixed, without = stream(teacher=teacher, **changes), stream(**changes)
    for step in range(mixed.steps_per_epoch):
        batch = mixed.batch(1, step)
        real = batch.sizes[0]
        assert shown(batch) == shown(without.batch(1, step))
        assert labelled_samples(batch) == [None] * real + [index for index, *_ in shown(batch)[real:]]


def test_real_images_have_no_soft_labels(teacher: Teacher) -> None:
    assert stream(teacher=teacher, data="real").batch(0, 0).teacher is None
    assert stream().batch(0, 0).teacher is None


@pytest.mark.parametrize("world_size", [2, 4])
def test_soft_labels_are_split_among_ranks(teacher: Teacher, world_size: int) -> None:
    expected = stream(teacher=teacher).batch(0, 1).teacher
    assert expected is not None
    for rank in range(world_size):
        part = stream(teacher=teacher, rank=rank, world_size=world_size).batch(0, 1).teacher
        assert part is not None and torch.equal(part, expected[rank::world_size])


def test_loader_processes_yield_the_same_soft_labels(teacher: Teacher) -> None:
    threads, processes = (list(batches(stream(teacher=teacher), 2, processes=number)) for number in (0, 2))
    for (*position, expected), (*other_position, actual) in zip(threads, processes, strict=True):
        assert position == other_position and expected.teacher is not None and actual.teacher is not None
        assert torch.equal(actual.teacher, expected.teacher)


def test_a_replacement_of_a_corrupt_image_has_its_own_soft_labels(tmp_path: Path) -> None:
    images = damaged(tmp_path, [7, 12])
    mixed = stream(teacher=write_teacher(tmp_path, images), synthetic=images)
    for epoch in range(6):
        for step in range(mixed.steps_per_epoch):
            batch = mixed.batch(epoch, step)
            assert labelled_samples(batch)[8:] == [index for index, *_ in shown(batch)[8:]]
    assert mixed.corruption.images == 2


@pytest.mark.parametrize("damage", ["flipped", "truncated", "removed"])
def test_a_damaged_file_is_reported_by_name(teacher: Teacher, damage: str) -> None:
    mixed = stream(teacher=teacher, window=1)
    for file in Path(teacher.url).glob("0*.safetensors"):
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data if damage == "flipped" else data[:-40])
        if damage == "removed":
            file.unlink()
    with pytest.raises(UserError, match=r"teacher/0000\d\.safetensors: the teacher file is missing or corrupt"):
        mixed.batch(0, 0)


def test_class_vectors_are_verified(teacher: Teacher) -> None:
    assert np.array_equal(teacher.class_vectors(), np.eye(CLASSES, 7))
    file = Path(teacher.url, VECTORS)
    file.write_bytes(file.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(UserError, match=r"class_vectors\.safetensors: the teacher file is missing or corrupt"):
        teacher.class_vectors()
    file.unlink()
    with pytest.raises(UserError, match=r"class_vectors\.safetensors"):
        teacher.class_vectors()


def test_a_folder_without_teacher_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing or incomplete"):
        Teacher(str(tmp_path), ShardCache())
