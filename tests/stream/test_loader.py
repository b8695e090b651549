"""Prefetching by threads or processes does not change the batches."""

from __future__ import annotations

import itertools
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
from tests.stream.test_mixed import Shown, damaged, shown, stored, stream
from tests.worlds.loaders import kill_once

EPOCHS, STEPS = 3, 2
PROCESSES = (0, 1, 2, 4)
WORLD_SIZES = (1, 2, 4)
"""Numbers of ranks with a global batch of 8: 1 x 8, 2 x 4 and 4 x 2."""


def global_batches(processes: int, world_size: int = 1, start: tuple[int, int] = (0, 0)) -> list[list[Shown]]:
    """The sorted images of every global batch, merged from all ranks."""
    sources = [MixedSource(stored(5, 6, 2)), MixedSource(stored(5, 2, 1), 2.0)]
    ranks = [stream(synthetic=sources, window=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    loaders = [batches(rank, EPOCHS, *start, threads=1, processes=processes) for rank in ranks]
    merged = []
    for parts in zip(*loaders, strict=True):
        assert len({(epoch, step) for epoch, step, _ in parts}) == 1
        merged.append(sorted(image for _, _, batch in parts for image in shown(batch)))
    return merged


@pytest.mark.slow
@pytest.mark.nightly
def test_global_batches_do_not_depend_on_ranks_and_processes() -> None:
    expected = global_batches(processes=0)
    assert len(expected) == EPOCHS * STEPS and all(len(batch) == 24 for batch in expected)
    for processes, world_size in itertools.product(PROCESSES, WORLD_SIZES):
        assert global_batches(processes, world_size) == expected, (processes, world_size)


@pytest.mark.parametrize(("processes", "world_size"), [(0, 1), (0, 2), (0, 4), (1, 1), (2, 2), (4, 1)])
def test_batches_from_any_step_do_not_depend_on_ranks_and_processes(processes: int, world_size: int) -> None:
    expected = global_batches(processes=0)
    for step in [3] if processes else range(len(expected)):
        assert global_batches(processes, world_size, start=divmod(step, STEPS)) == expected[step:]


def test_no_batch_follows_the_last_epoch() -> None:
    assert list(batches(stream(), 2, 2, 0, processes=2)) == []
    assert list(batches(stream(), 2, 2, 0, pin_memory=True)) == []


def test_processes_do_not_advance_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert len(list(batches(stream(), 1, processes=1))) == STEPS
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("options", [{"threads": 2}, {"processes": 2}])
def test_an_iterator_can_be_closed_early(options: dict[str, int]) -> None:
    iterator = batches(stream(), 10**6, **options)
    next(iterator)
    iterator.close()


@pytest.mark.fault
def test_unreadable_images_of_processes_are_counted_once(tmp_path: Path) -> None:
    mixed, expected = (stream(synthetic=damaged(tmp_path, [7, 12])) for _ in range(2))
    for epoch, step, batch in batches(mixed, 20, processes=2):
        assert torch.equal(batch.images, expected.batch(epoch, step).images)
    assert sorted(mixed.corruption.names) == sorted(expected.corruption.names)
    assert len(mixed.corruption.names) == 2


@pytest.mark.fault
@pytest.mark.parametrize(
    ("rows", "limit", "message"),
    [(range(10), 3, "4 unreadable images"), (range(3, 30, 5), 16, "class id 3: all 6 images")],
)
def test_an_error_in_a_process_is_raised(tmp_path: Path, rows: range, limit: int, message: str) -> None:
    mixed = stream(synthetic=damaged(tmp_path, list(rows)), max_corrupt_images=limit)
    with pytest.raises(UserError, match=f"^{message}"):
        list(batches(mixed, 50, processes=2))


def test_batches_in_page_locked_memory_are_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("page-locked memory requires a GPU driver")
    for processes in (0, 1):
        pinned = batches(stream(), 1, processes=processes, pin_memory=True)
        for (_, _, actual), (_, _, expected) in zip(pinned, batches(stream(), 1), strict=True):
            assert actual.images.is_pinned() and torch.equal(actual.images, expected.images)


@pytest.mark.parametrize("processes", [0, 1])
def test_each_batch_is_pinned_once_and_in_order(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: replace(batch, images=batch.images + 1))  # without a GPU
    pinned = batches(stream(), EPOCHS, 0, 1, processes=processes, pin_memory=True)
    for actual, expected in zip(pinned, batches(stream(), EPOCHS, 0, 1), strict=True):
        assert actual[:2] == expected[:2] and torch.equal(actual[2].images, expected[2].images + 1)


def interleaved(image: Image.Image, _: torch.Generator) -> torch.Tensor:
    """A transform that returns the decoded pixels in channels_last format."""
    return F.pil_to_tensor(image)


@pytest.mark.parametrize("options", [{}, {"threads": 2}, {"processes": 2, "threads": 1}])
def test_a_batch_has_the_memory_format_of_the_transforms_output(options: dict[str, int]) -> None:
    mixed = stream(transform=interleaved)
    for epoch, step, batch in batches(mixed, 2, **options):
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.images, mixed.batch(epoch, step).images)


@pytest.mark.fault
def test_a_killed_process_is_an_error_and_the_stream_can_be_resumed(tmp_path: Path) -> None:
    mixed, images = stream(), []
    kill = kill_once(mixed, tmp_path / "killed")

    def read_and_kill() -> None:
        for _, _, batch in batches(mixed, EPOCHS, threads=1, processes=2):
            images.append(shown(batch))
            if len(images) == 2:
                kill()

    with pytest.raises(LostLoaderError, match="a loader process exited unexpectedly"), watched():
        read_and_kill()
    assert 2 <= len(images) < EPOCHS * STEPS
    rest = batches(mixed, EPOCHS, *divmod(len(images), STEPS), threads=1, processes=2)
    images += [shown(batch) for _, _, batch in rest]
    assert images == [shown(mixed.batch(epoch, step)) for epoch in range(EPOCHS) for step in range(STEPS)]


def test_other_errors_are_not_converted() -> None:
    with pytest.raises(RuntimeError, match="^out of memory$"), watched():
        raise RuntimeError("out of memory")
