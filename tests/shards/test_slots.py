"""Memory that loader processes lend: written to again when nobody holds it any more, and not before."""

from __future__ import annotations

import itertools
import os

import torch

from syncclip.shards.slots import Slots
from tests.shards.test_stream import shown, stored, stream

SHAPE = (2, 3, 4)


def test_a_slot_is_used_again_only_when_it_came_back() -> None:
    slots = Slots()
    first = slots.room(SHAPE, torch.float32)
    assert (slots.last, first.shape, first.is_shared()) == (0, SHAPE, True)
    assert slots.room(SHAPE, torch.float32).data_ptr() != first.data_ptr()
    assert slots.last == 1
    slots.give_back(0)
    assert slots.room(SHAPE, torch.float32).data_ptr() == first.data_ptr()
    slots.give_back(0)
    assert slots.room(SHAPE, torch.uint8).dtype == torch.uint8
    assert slots.last == 0


def test_a_lent_tensor_comes_back_when_its_last_view_is_gone() -> None:
    slots = Slots()
    made = slots.room(SHAPE, torch.float32).fill_(7)
    lent = slots.lend(made, slots.last)
    assert lent.data_ptr() == made.data_ptr()
    assert torch.equal(lent, made)
    view = lent[1:, 0]
    del lent
    slots.room(SHAPE, torch.float32)
    assert slots.last == 1
    assert view.eq(7).all()
    del view
    slots.room(SHAPE, torch.float32)
    assert slots.last == 0


def test_batches_that_are_kept_stay_as_they_are() -> None:
    kept = list(stream(synthetic=stored(5, 6, 1)).batches(6, processes=2, threads=1))
    again = stream(synthetic=stored(5, 6, 1))
    assert len(kept) == 6 * again.steps_per_epoch
    for epoch, step, batch in kept:
        assert torch.equal(batch.images, again.batch(epoch, step).images)
        assert shown(batch) == shown(again.batch(epoch, step))


def test_batches_that_are_let_go_take_no_more_memory() -> None:
    places = set()
    for _, _, batch in itertools.islice(stream(synthetic=stored(5, 6, 1)).batches(40, processes=1, threads=1), 60):
        places.add(batch.images.data_ptr())
    assert len(places) <= 5, "one is made, one is ready, two are held, one is on its way"


def test_what_comes_back_after_the_process_ended_is_no_error() -> None:
    slots = Slots()
    lent = slots.lend(slots.room(SHAPE, torch.float32), slots.last)
    slots._back.close()
    slots._home.close()
    descriptor = os.open(os.devnull, os.O_WRONLY)  # takes the number of one that was closed
    del lent
    os.close(descriptor)
