"""Memory that loader processes lend: written to again when nobody holds it any more, and not before."""

from __future__ import annotations

import itertools
import os
import sys

import pytest
import torch

from syncclip.stream.loader import batches
from syncclip.stream.shared_memory import Slots
from tests.stream.test_mixed import shown, stored, stream

LIKE = torch.empty(4, 5, 3).permute(2, 0, 1)
SHAPE, STRIDE = (2, 3, 4, 5), (60, 1, 15, 3)


def test_a_slot_is_used_again_only_when_it_came_back() -> None:
    slots = Slots()
    first = slots.room(2, LIKE)
    assert (slots.last, first.shape, first.stride(), first.is_shared()) == (0, SHAPE, STRIDE, True)
    assert slots.room(2, LIKE).data_ptr() != first.data_ptr()
    assert slots.last == 1
    slots.lend(0, first)
    assert slots.room(2, LIKE).data_ptr() == first.data_ptr()
    slots.lend(0, None)
    assert slots.room(2, LIKE.byte()).dtype == torch.uint8
    assert slots.last == 0


def test_a_lent_tensor_comes_back_when_its_last_view_is_gone() -> None:
    slots = Slots()
    made = slots.room(2, LIKE).fill_(7)
    lent = slots.lend(slots.last, slots.to_send())
    assert lent.data_ptr() == made.data_ptr()
    assert lent.stride() == STRIDE
    assert torch.equal(lent, made)
    view = lent[1:, 0]
    del lent
    slots.room(2, LIKE)
    assert slots.last == 1
    assert view.eq(7).all()
    del view
    slots.room(2, LIKE)
    assert slots.last == 0


def test_a_slot_is_sent_once_and_again_when_it_is_exchanged() -> None:
    slots = Slots()
    first = slots.room(2, LIKE).fill_(7)
    assert slots.to_send() is first
    assert slots.lend(0, first).eq(7).all()
    assert slots.room(2, LIKE) is first
    first.fill_(8)
    assert slots.to_send() is None
    assert slots.lend(0, None).eq(8).all()
    other = slots.room(3, LIKE).fill_(9)
    assert slots.to_send() is other
    lent = slots.lend(0, other)
    assert len(lent) == 3 and lent.eq(9).all()


def test_batches_that_are_kept_stay_as_they_are() -> None:
    kept = list(batches(stream(synthetic=stored(5, 6, 1)), 6, processes=2, threads=1))
    again = stream(synthetic=stored(5, 6, 1))
    assert len(kept) == 6 * again.steps_per_epoch
    for epoch, step, batch in kept:
        assert torch.equal(batch.images, again.batch(epoch, step).images)
        assert shown(batch) == shown(again.batch(epoch, step))


def test_batches_that_are_let_go_take_no_more_memory() -> None:
    places = set()
    for _, _, batch in itertools.islice(batches(stream(synthetic=stored(5, 6, 1)), 40, processes=1, threads=1), 60):
        places.add(batch.images.data_ptr())
    assert len(places) <= 5, "one is made, one is ready, two are held, one is on its way"


def test_what_comes_back_after_the_process_ended_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    slots = Slots()
    lent = slots.lend(0, slots.room(2, LIKE))
    slots._returned.close()
    del lent
    assert errors == []


def test_a_forked_process_gives_nothing_back() -> None:
    slots = Slots()
    lent = slots.lend(0, slots.room(2, LIKE).fill_(7))
    child = os.fork()
    if not child:
        del lent
        os._exit(0)
    os.waitpid(child, 0)
    slots.room(2, LIKE).fill_(9)
    assert lent.eq(7).all()


def test_images_that_leave_gaps_find_their_slot_again() -> None:
    slots, cropped = Slots(), torch.empty(3, 9, 9)[:, 2:6, 2:7]
    first = slots.room(2, cropped)
    slots.lend(0, first)
    assert slots.room(2, cropped) is first
