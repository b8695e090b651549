"""Passes over the real images of the first epochs, and over all images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from syncclip.stream.loader import views
from syncclip.stream.mixed import MixedStream
from syncclip.stream.sources import MixedSource
from tests.stream.test_mixed import BASE, Shown, encode, shown, stored, stream


def passes(mixed: MixedStream, count: int = 1, threads: int = 0, whole: bool = False) -> list[list[Shown]]:
    return [[image for batch in view for image in shown(batch)] for view in views(mixed, count, threads, whole)]


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


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_views(threads: int, whole: bool) -> None:
    assert passes(stream(), 2, threads, whole) == passes(stream(), 2, 0, whole)


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


@pytest.mark.parametrize("weight", [0.5, 1.0, 2.0])
def test_a_whole_pass_shows_each_real_image_once_whatever_the_weight(weight: float) -> None:
    mixed = MixedStream(
        [MixedSource(stored(3, 4, 4), weight)], [], transform=encode, batch=8, seed=1, base=BASE, data="real"
    )
    (images,) = passes(mixed, whole=True)
    assert sorted(index for index, _, label, _ in images if label >= 0) == list(range(12))


@pytest.mark.parametrize("epochs_over", ["real", "synthetic", "longer"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(
    ("changes", "real", "synthetic"),
    [
        ({}, 12, range(30)),
        ({"data": "real"}, 12, ()),
        ({"data": "synthetic"}, 0, range(30)),
        ({"images_per_class": 2}, 12, range(10)),
        ({"novel": ()}, 12, [index for index in range(30) if index % 5 < 3]),
    ],
)
def test_all_ranks_together_show_every_selected_image_once(
    changes: dict[str, Any], real: int, synthetic: Sequence[int], world_size: int, epochs_over: str
) -> None:
    """A synthetic image's index modulo the number of classes is its class."""
    arguments = {"rank": 0, "world_size": world_size, "epochs_over": epochs_over, **changes}
    ranks = [passes(stream(**arguments | {"rank": rank}), whole=True)[0] for rank in range(world_size)]
    assert len({len(rank) for rank in ranks}) == 1
    images = [image for rank in ranks for image in rank if image[2] >= 0]
    assert sorted(index for index, *_, domain in images if domain == 0) == list(range(real))
    assert sorted(index for index, *_, domain in images if domain == 1) == list(synthetic)
    assert all(label == index % (5 if domain else 3) for index, _, label, domain in images)
    assert len({number for _, number, *_ in images}) == len(images)


@pytest.mark.parametrize("whole", [False, True])
def test_the_order_of_a_pass_does_not_depend_on_the_number_of_ranks(whole: bool) -> None:
    (single,) = passes(stream(), whole=whole)
    ranks = [passes(stream(rank=rank, world_size=2), whole=whole)[0] for rank in range(2)]
    assert [image for pair in zip(*ranks, strict=True) for image in pair] == single


def test_whole_views_of_real_images_are_those_of_the_first_epoch() -> None:
    assert passes(stream(data="real"), 2, whole=True) == passes(stream(data="real"), 2)
