"""Transfer of a batch to another process or device."""

from __future__ import annotations

import pickle
from dataclasses import astuple, replace

import pytest
import torch

from syncclip.stream.batch import Batch, empty_batch


@pytest.fixture
def batch() -> Batch:
    """A batch of two real, one seen and one novel image."""
    labels, domains = torch.tensor([0, 2, 0, 3]), torch.tensor([0, 0, 1, 1])
    return Batch(torch.rand(4, 3, 2, 2), labels, domains, (2, 1, 1), torch.rand(4, 4))


@pytest.mark.parametrize("teacher", [True, False])
def test_a_batch_can_be_pickled(batch: Batch, teacher: bool) -> None:
    batch = batch if teacher else replace(batch, teacher=None)
    for actual, expected in zip(astuple(pickle.loads(pickle.dumps(batch))), astuple(batch), strict=True):
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        else:
            assert actual == expected


def test_only_the_images_are_pickled_as_a_tensor(batch: Batch) -> None:
    _, arguments = batch.__reduce__()
    assert [type(argument) is torch.Tensor for argument in arguments] == [True, False, False, False, False]


def test_all_tensors_are_copied_to_a_device(batch: Batch) -> None:
    moved = batch.to("meta")
    assert moved.teacher is not None
    tensors = (moved.images, moved.labels, moved.domains, moved.teacher)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.sizes == batch.sizes
    assert replace(batch, teacher=None).to("meta").teacher is None


@pytest.mark.parametrize("images", [1, 5])
def test_an_empty_batch_has_the_memory_format_of_its_images(images: int) -> None:
    planar, interleaved = torch.zeros(3, 4, 5), torch.zeros(4, 5, 3, dtype=torch.uint8).permute(2, 0, 1)
    crop = torch.zeros(3, 9, 9)[:, :4, :5]
    for like, strides in ((planar, (20, 5, 1)), (interleaved, (1, 15, 3)), (crop, (20, 5, 1))):
        batch = empty_batch(images, like)
        assert (batch.shape, batch.dtype, batch[0].stride()) == ((images, *like.shape), like.dtype, strides)
