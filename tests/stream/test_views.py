"""Passes over the first epoch, from which a method is prepared."""

from __future__ import annotations

import pytest
import torch

from syncclip.stream.loader import views
from syncclip.stream.mixed import MixedStream
from tests.stream.test_mixed import shown, stored, stream

Shown = tuple[int, int, int, int]


def passes(mixed: MixedStream, count: int = 1, threads: int = 0) -> list[list[Shown]]:
    return [[image for batch in view for image in shown(batch)] for view in views(mixed, count, threads)]


def test_the_first_view_is_the_first_epoch_but_for_what_it_shows_again() -> None:
    mixed = stream()  # of 12 real images 8 a step, so 4 come again
    (found,) = passes(mixed)
    epoch = [image for step in range(2) for image in shown(mixed.batch(0, step))]
    again = [place for place, (*_, label, _) in enumerate(found) if label == -1]
    assert again == [28, 29, 30, 31]  # the last of the second step's real images
    assert all(one == other for place, (one, other) in enumerate(zip(found, epoch, strict=True)) if place not in again)


def test_views_show_the_same_images_in_the_same_order_with_chance_of_their_own() -> None:
    first, second, third = passes(stream(), 3)
    for other in (second, third):
        assert [(index, *what) for index, _, *what in other] == [(index, *what) for index, _, *what in first]
    drawn = [{drawn for _, drawn, *_ in view} for view in (first, second, third)]
    assert not drawn[0] & drawn[1] and not drawn[0] & drawn[2] and not drawn[1] & drawn[2]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads: int) -> None:
    assert passes(stream(), 2, threads) == passes(stream(), 2)


@pytest.mark.parametrize("epochs_over", ["real", "longer"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_ranks_show_every_real_image_just_once_with_its_label(world: int, epochs_over: str) -> None:
    # An epoch over the longer data has 24 synthetic images to show, so that real ones come round again.
    synthetic = stored(5, 16, 2)
    ranks = [
        passes(stream(synthetic=synthetic, rank=rank, world_size=world, epochs_over=epochs_over))[0]
        for rank in range(world)
    ]
    known = [index for rank in ranks for index, _, label, domain in rank if domain == 0 and label >= 0]
    assert sorted(known) == list(range(12))
    assert all(label >= 0 for rank in ranks for _, _, label, domain in rank if domain == 1)


@pytest.mark.parametrize("world", [1, 2])
def test_where_an_epoch_is_shorter_than_a_round_a_view_still_shows_every_real_image_once(world: int) -> None:
    ranks = [
        stream(synthetic=stored(5, 1, 1), rank=rank, world_size=world, epochs_over="synthetic") for rank in range(world)
    ]
    assert ranks[0].steps_per_epoch < ranks[0].steps_per_round
    known = [index for one in ranks for index, _, label, domain in passes(one)[0] if domain == 0 and label >= 0]
    assert sorted(known) == list(range(12))


def test_synthetic_images_are_all_new() -> None:
    assert all(label >= 0 for _, _, label, _ in passes(stream(data="synthetic"))[0])
    assert stream(data="synthetic").repeated(1) == 0 and stream().repeated(1) == 4


def test_the_labels_of_the_stream_itself_stay() -> None:
    mixed = stream()
    before = mixed.batch(0, 1).labels
    passes(mixed)
    assert torch.equal(mixed.batch(0, 1).labels, before) and bool((before >= 0).all())
