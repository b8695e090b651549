"""Reuse of shared memory: after its release, and not before."""

from __future__ import annotations

import itertools
import os
import sys

import pytest
import torch

from syncclip.stream.loader import batches
from syncclip.stream.shared_memory import Slots
from tests.stream.test_mixed import stored, stream

LIKE = torch.empty(4, 5, 3).permute(2, 0, 1)
SHAPE, STRIDE = (2, 3, 4, 5), (60, 1, 15, 3)


def test_a_slot_is_reused_after_its_release() -> None:
    slots = Slots()
    first = slots.allocate(2, LIKE)
    assert (slots.last, first.shape, first.stride(), first.is_shared()) == (0, SHAPE, STRIDE, True)
    assert slots.allocate(2, LIKE).data_ptr() != first.data_ptr()
    assert slots.last == 1
    slots.lend(0, first)
    assert slots.allocate(2, LIKE).data_ptr() == first.data_ptr()
    slots.lend(0, None)
    assert slots.allocate(2, LIKE.byte()).dtype == torch.uint8
    assert slots.last == 0


def test_a_slot_of_non_contiguous_images_is_reused() -> None:
    slots, crop = Slots(), torch.empty(3, 9, 9)[:, 2:6, 2:7]
    first = slots.allocate(2, crop)
    slots.lend(0, first)
    assert slots.allocate(2, crop) is first


def test_a_slot_is_released_with_the_last_view_of_its_tensor() -> None:
    slots = Slots()
    allocated = slots.allocate(2, LIKE).fill_(7)
    lent = slots.lend(slots.last, slots.to_send())
    assert lent.data_ptr() == allocated.data_ptr()
    assert lent.stride() == STRIDE
    assert torch.equal(lent, allocated)
    view = lent[1:, 0]
    del lent
    slots.allocate(2, LIKE)
    assert slots.last == 1
    assert view.eq(7).all()
    del view
    slots.allocate(2, LIKE)
    assert slots.last == 0


def test_the_memory_of_a_slot_is_sent_once_until_it_is_replaced() -> None:
    slots = Slots()
    first = slots.allocate(2, LIKE).fill_(7)
    assert slots.to_send() is first
    assert slots.lend(0, first).eq(7).all()
    assert slots.allocate(2, LIKE) is first
    first.fill_(8)
    assert slots.to_send() is None
    assert slots.lend(0, None).eq(8).all()
    larger = slots.allocate(3, LIKE).fill_(9)
    assert slots.to_send() is larger
    lent = slots.lend(0, larger)
    assert len(lent) == 3 and lent.eq(9).all()


def test_batches_that_are_kept_do_not_change() -> None:
    kept = list(batches(stream(synthetic=stored(5, 6, 1)), 6, processes=2, threads=1))
    expected = stream(synthetic=stored(5, 6, 1))
    assert len(kept) == 6 * expected.steps_per_epoch
    for epoch, step, batch in kept:
        assert torch.equal(batch.images, expected.batch(epoch, step).images)


def test_the_memory_of_deleted_batches_is_reused() -> None:
    loader = batches(stream(synthetic=stored(5, 6, 1)), 40, processes=1, threads=1)
    addresses = {batch.images.data_ptr() for _, _, batch in itertools.islice(loader, 60)}
    assert len(addresses) <= 5, "one in preparation, one prefetched, two in use, one in transit"


def test_a_release_after_the_process_has_ended_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    slots = Slots()
    lent = slots.lend(0, slots.allocate(2, LIKE))
    slots._returned.close()
    del lent
    assert errors == []


def test_a_forked_process_releases_no_slot() -> None:
    slots = Slots()
    lent = slots.lend(0, slots.allocate(2, LIKE).fill_(7))
    child = os.fork()
    if not child:
        del lent
        os._exit(0)
    os.waitpid(child, 0)
    slots.allocate(2, LIKE).fill_(9)
    assert lent.eq(7).all()
