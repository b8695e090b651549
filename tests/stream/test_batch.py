"""A batch on its way to another process or device."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from syncclip.stream.batch import Batch, empty_batch


@pytest.fixture
def batch() -> Batch:
    """Two real images, one seen and one novel one."""
    labels, domains = torch.tensor([0, 2, 0, 3]), torch.tensor([0, 0, 1, 1])
    return Batch(torch.rand(4, 3, 2, 2), labels, domains, (2, 1, 1), torch.rand(4, 4))


def same(one: Batch, other: Batch) -> bool:
    pairs = [(one.images, other.images), (one.labels, other.labels), (one.domains, other.domains)]
    if one.teacher is None or other.teacher is None:
        return one.teacher is other.teacher and one.sizes == other.sizes
    pairs.append((one.teacher, other.teacher))
    return one.sizes == other.sizes and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_a_batch_comes_whole_out_of_another_process(batch: Batch) -> None:
    assert same(pickle.loads(pickle.dumps(batch)), batch)
    untaught = replace(batch, teacher=None)
    assert same(pickle.loads(pickle.dumps(untaught)), untaught) and untaught.to("meta").teacher is None


def test_only_the_images_go_by_shared_memory(batch: Batch) -> None:
    _, parts = batch.__reduce__()
    assert [type(part) is torch.Tensor for part in parts] == [True, False, False, False, False]


def test_all_of_a_batch_goes_to_a_device(batch: Batch) -> None:
    moved = batch.to("meta")
    assert moved.teacher is not None
    tensors = (moved.images, moved.labels, moved.domains, moved.teacher)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.sizes == batch.sizes


@pytest.mark.parametrize("images", [1, 5])
def test_memory_for_a_batch_is_laid_out_as_its_images_are(images: int) -> None:
    planes, pixels = torch.zeros(3, 4, 5), torch.zeros(4, 5, 3, dtype=torch.uint8).permute(2, 0, 1)
    part_of_larger = torch.zeros(3, 9, 9)[:, :4, :5]
    for like, strides in ((planes, (20, 5, 1)), (pixels, (1, 15, 3)), (part_of_larger, (20, 5, 1))):
        found = empty_batch(images, like)
        assert (found.shape, found.dtype, found[0].stride()) == ((images, *like.shape), like.dtype, strides)
