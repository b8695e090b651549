"""Passes over the real images of the first epochs."""

from __future__ import annotations

import pytest

from syncclip.stream.loader import views
from syncclip.stream.mixed import MixedStream
from tests.stream.test_mixed import Shown, shown, stored, stream


def passes(mixed: MixedStream, count: int = 1, threads: int = 0) -> list[list[Shown]]:
    return [[image for batch in view for image in shown(batch)] for view in views(mixed, count, threads)]


def test_the_first_view_is_the_first_epoch_except_for_repeated_images() -> None:
    mixed = stream()  # 12 real images, 8 per step: 4 are repeated
    (view,) = passes(mixed)
    epoch = [image for step in range(2) for image in shown(mixed.batch(0, step))]
    assert [position for position, (*_, label, _) in enumerate(view) if label == -1] == [28, 29, 30, 31]
    assert view[:28] + view[32:] == epoch[:28] + epoch[32:]


def test_views_differ_only_in_their_augmentations() -> None:
    first, second, third = passes(stream(), 3)
    for other in (second, third):
        assert [(index, *rest) for index, _, *rest in other] == [(index, *rest) for index, _, *rest in first]
    first, second, third = ({number for _, number, *_ in view} for view in (first, second, third))
    assert not first & second and not first & third and not second & third


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_views(threads: int) -> None:
    assert passes(stream(), 2, threads) == passes(stream(), 2)


@pytest.mark.parametrize(("rounds", "epochs_over"), [(16, "real"), (16, "longer"), (1, "synthetic")])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_ranks_together_show_every_real_image_once(world_size: int, rounds: int, epochs_over: str) -> None:
    """An epoch of the longer data repeats real images; one of a single synthetic round is shorter than a pass."""
    ranks = [
        passes(stream(synthetic=stored(5, rounds, 1), rank=rank, world_size=world_size, epochs_over=epochs_over))[0]
        for rank in range(world_size)
    ]
    indices = [index for rank in ranks for index, _, label, domain in rank if domain == 0 and label >= 0]
    assert sorted(indices) == list(range(12))
    assert all(label >= 0 for rank in ranks for _, _, label, domain in rank if domain == 1)


def test_synthetic_images_are_never_marked_as_repeated() -> None:
    assert all(label >= 0 for _, _, label, _ in passes(stream(data="synthetic"))[0])
    assert stream(data="synthetic").order.repeated(1, 0, 1) == 0 and stream().order.repeated(1, 0, 1) == 4
