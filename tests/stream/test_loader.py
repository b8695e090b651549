"""Batches that are made ahead: by threads or processes, they are the same ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from syncclip.core.settings import UserError
from syncclip.stream.batch import Batch
from syncclip.stream.loader import LostLoaderError, batches, watched
from syncclip.stream.sources import MixedSource
from tests.stream.test_mixed import damaged, shown, stored, stream
from tests.worlds.loaders import kill_once

EPOCHS = 3
PROCESSES = (0, 1, 2, 4)
WORLDS = (1, 2, 4)
"""Ranks that share a batch of 8: 1 x 8, 2 x 4 and 4 x 2."""


def images(processes: int, world: int = 1, start: tuple[int, int] = (0, 0)) -> list[list[tuple[int, int, int, int]]]:
    """What every global batch shows (sample, number drawn for its transform, label, domain), all ranks together."""
    sets = [MixedSource(stored(5, 6, 2)), MixedSource(stored(5, 2, 1), 2.0)]
    ranks = [
        batches(
            stream(synthetic=sets, window=2, rank=rank, world_size=world),
            EPOCHS,
            *start,
            threads=1,
            processes=processes,
        )
        for rank in range(world)
    ]
    found = []
    for parts in zip(*ranks, strict=True):
        assert len({(epoch, step) for epoch, step, _ in parts}) == 1
        found.append(sorted(image for _, _, batch in parts for image in shown(batch)))
    return found


@pytest.mark.slow
def test_global_batches_are_the_same_for_any_ranks_and_loader_processes() -> None:
    whole = images(processes=0)
    assert len(whole) == EPOCHS * 2 and all(len(batch) == 24 for batch in whole)
    for processes, world in itertools.product(PROCESSES, WORLDS):
        assert images(processes, world) == whole, (processes, world)


@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("world", WORLDS)
def test_from_any_place_on_the_rest_is_the_same(processes: int, world: int) -> None:
    whole = images(processes=0)
    for place in [3] if processes else range(len(whole)):
        assert images(processes, world, start=divmod(place, 2)) == whole[place:]


def test_there_is_nothing_after_the_end() -> None:
    assert list(batches(stream(), 2, 2, 0, processes=2)) == []


def test_processes_use_up_no_chance_of_this_one() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert len(list(batches(stream(), 1, processes=1))) == 2
    assert torch.equal(torch.rand(1), expected)


def test_processes_can_be_left_in_the_middle() -> None:
    made = batches(stream(), 10**6, processes=2)
    next(made)
    made.close()


@pytest.mark.fault
def test_what_processes_could_not_read_is_counted_here_once(tmp_path: Path) -> None:
    mixed = stream(synthetic=damaged(tmp_path, [7, 12]))
    plain = stream(synthetic=damaged(tmp_path, [7, 12]))
    for epoch, step, batch in batches(mixed, 20, processes=2):
        assert torch.equal(batch.images, plain.batch(epoch, step).images)
    assert sorted(mixed.corruption.names) == sorted(plain.corruption.names)
    assert len(mixed.corruption.names) == 2


@pytest.mark.fault
@pytest.mark.parametrize(
    ("rows", "limit", "sentence"),
    [
        (list(range(10)), 3, "4 unreadable images, more than the limit of 3"),
        (list(range(3, 30, 5)), 16, "class 3: none of its 6 images"),
    ],
)
def test_a_mistake_in_a_process_is_told_as_one_here(
    tmp_path: Path, rows: Sequence[int], limit: int, sentence: str
) -> None:
    mixed = stream(synthetic=damaged(tmp_path, list(rows)), max_corrupt_images=limit)
    with pytest.raises(UserError, match=f"^{sentence}"):
        list(batches(mixed, 50, processes=2))


def test_batches_in_page_locked_memory_are_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("page-locked memory needs a GPU's driver")
    for processes in (0, 1):
        for (_, _, pinned), (_, _, plain) in zip(
            batches(stream(), 1, processes=processes, pin_memory=True), batches(stream(), 1), strict=True
        ):
            assert pinned.images.is_pinned() and torch.equal(pinned.images, plain.images)


@pytest.mark.parametrize("processes", [0, 1])
def test_each_batch_is_copied_to_page_locked_memory_once_and_in_order(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: replace(batch, images=batch.images + 1))  # without a driver
    pinned = batches(stream(), EPOCHS, 0, 1, processes=processes, pin_memory=True)
    for one, other in zip(pinned, batches(stream(), EPOCHS, 0, 1), strict=True):
        assert one[:2] == other[:2] and torch.equal(one[2].images, other[2].images + 1)
    assert list(batches(stream(), 2, 2, 0, pin_memory=True)) == []


def as_it_lies(image: Image.Image, _: torch.Generator) -> torch.Tensor:
    """Its colours side by side, as an image has them."""
    return F.pil_to_tensor(image)


@pytest.mark.parametrize("ahead", [{}, {"threads": 2}, {"processes": 2, "threads": 1}])
def test_images_lie_in_a_batch_as_the_transform_gives_them(ahead: dict[str, int]) -> None:
    mixed = stream(transform=as_it_lies)
    for epoch, step, batch in batches(mixed, 2, **ahead):
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.images, mixed.batch(epoch, step).images)


@pytest.mark.fault
def test_a_process_that_is_killed_is_told_and_the_rest_can_be_made_anew(tmp_path: Path) -> None:
    mixed, found = stream(), []
    kill = kill_once(mixed, tmp_path / "killed")

    def read_and_kill() -> None:
        for _, _, batch in batches(mixed, EPOCHS, threads=1, processes=2):
            found.append(shown(batch))
            if len(found) == 2:
                kill()

    with (
        pytest.raises(LostLoaderError, match="a loader process was lost"),
        watched(),
    ):
        read_and_kill()
    assert 2 <= len(found) < 2 * EPOCHS
    found += [shown(batch) for _, _, batch in batches(mixed, EPOCHS, *divmod(len(found), 2), threads=1, processes=2)]
    assert found == [shown(mixed.batch(epoch, step)) for epoch in range(EPOCHS) for step in range(2)]


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="^out of memory$"), watched():
        raise RuntimeError("out of memory")
