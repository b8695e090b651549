"""The mixed stream as a function of (seed, epoch, step)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from syncclip.core.settings import UserError
from syncclip.shards.cache import ShardCache
from syncclip.shards.reader import ShardSet
from syncclip.stream.batch import Batch
from syncclip.stream.loader import batches
from syncclip.stream.mixed import Data, MixedStream
from syncclip.stream.sources import MixedSource
from tests.shards.sets import index_of, write_set

BASE, NOVEL = [0, 1, 2], [3, 4]
DATA: list[Data] = ["real", "synthetic", "both"]
Shown = tuple[int, int, int, int]
"""Sample index, random number, label and domain of an image."""
seeds, windows = st.integers(0, 2**40), st.sampled_from([None, 1, 2])
quick = settings(max_examples=40)


@lru_cache
def stored(classes: int, rounds: int, per_shard: int, without: tuple[int, ...] = ()) -> ShardSet:
    url = f"memory://stream/{classes}-{rounds}-{per_shard}-{'-'.join(map(str, without))}"
    write_set(url, classes, rounds, per_shard, without)
    return ShardSet(url)


def encode(image: Image.Image, generator: torch.Generator) -> torch.Tensor:
    """A transform to the sample index and a random number."""
    return torch.tensor([float(index_of(image)), float(torch.randint(1 << 20, (), generator=generator))]).view(2, 1, 1)


def stream(**changes: Any) -> MixedStream:
    """A stream of three base classes with 4 real images each and five classes with 6 synthetic images each."""
    arguments: dict[str, Any] = {
        "real": stored(3, 4, 4),
        "synthetic": stored(5, 6, 2),
        "transform": encode,
        "batch": 8,
        "seed": 1,
        "base": BASE,
        "novel": NOVEL,
        **changes,
    }
    real, synthetic, rows = arguments.pop("real"), arguments.pop("synthetic"), arguments.pop("real_rows", None)
    return MixedStream(
        [] if real is None else [MixedSource(real, rows=rows)],
        synthetic if isinstance(synthetic, list) else [] if synthetic is None else [MixedSource(synthetic)],
        **arguments,
    )


def shown(batch: Batch) -> list[Shown]:
    samples, numbers = batch.images[:, 0, 0, 0].long(), batch.images[:, 1, 0, 0].long()
    return list(zip(*(t.tolist() for t in (samples, numbers, batch.labels, batch.domains)), strict=True))


def ids(mixed: MixedStream, epoch: int, step: int) -> list[list[int]]:
    ids = mixed.order.ids(epoch, step)
    return [ids.real.tolist(), ids.seen.tolist(), ids.novel.tolist(), ids.labels.tolist(), ids.novel_labels.tolist()]


def window(mixed: MixedStream, epoch: int, step: int) -> set[int]:
    (window,) = mixed.order.sampler.windows
    return set(window.shards(epoch * mixed.steps_per_epoch + step))


@quick
@given(seed=st.integers(-5, 2**40), epoch=st.integers(0, 50), step=st.integers(0, 1), data=st.sampled_from(DATA))
def test_every_image_has_its_label(seed: int, epoch: int, step: int, data: Data) -> None:
    ids = stream(seed=seed, data=data).order.ids(epoch, step)
    real, synthetic = stored(3, 4, 4), stored(5, 6, 2)
    sizes = {"real": (8, 0, 0), "synthetic": (0, 8, 8), "both": (8, 8, 8)}
    assert (len(ids.real), len(ids.seen), len(ids.novel)) == sizes[data]
    assert real.labels[ids.real].tolist() == ids.labels.tolist()[: len(ids.real)]
    assert synthetic.labels[ids.seen].tolist() == ids.labels.tolist()[: len(ids.seen)]
    assert synthetic.labels[ids.novel].tolist() == ids.novel_labels.tolist()
    assert set(ids.novel_labels.tolist()) <= set(NOVEL)


@quick
@given(seed=seeds, epoch=st.integers(0, 50), data=st.data())
def test_a_batch_is_a_pure_function_of_seed_epoch_and_step(seed: int, epoch: int, data: st.DataObject) -> None:
    mixed = stream(seed=seed, batch=4, window=2)
    positions = [(epoch, step) for step in range(mixed.steps_per_epoch)] + [(epoch + 1, 0)]
    expected = {position: ids(mixed, *position) for position in positions}
    for position in data.draw(st.permutations(positions)):
        assert ids(stream(seed=seed, batch=4, window=2), *position) == expected[position]


@quick
@given(
    epoch=st.integers(0, 9),
    step=st.integers(0, 1),
    window=windows,
    data=st.sampled_from(DATA),
    weight=st.sampled_from([None, 0.5, 3.0]),
)
def test_global_batches_do_not_depend_on_the_number_of_ranks(
    epoch: int, step: int, window: int | None, data: Data, weight: float | None
) -> None:
    several = {"synthetic": [MixedSource(stored(5, 6, 2)), MixedSource(stored(5, 2, 1), weight)]} if weight else {}
    changes = {"window": window, "data": data, **several}
    expected = stream(**changes).batch(epoch, step)
    for world_size in (2, 4, 8):
        ranks = [stream(**changes, rank=rank, world_size=world_size) for rank in range(world_size)]
        parts = [rank.batch(epoch, step) for rank in ranks]
        assert sorted(image for part in parts for image in shown(part)) == sorted(shown(expected))
        assert {part.sizes for part in parts} == {tuple(size // world_size for size in expected.sizes)}


@pytest.mark.parametrize(
    ("changes", "sha256"),
    [
        ({}, "0bc1f85c1b9aa9f1"),
        ({"window": 1}, "e279398724a653a3"),
        ({"window": 2, "batch": 4, "images_per_class": 3}, "8321c9e29f492971"),
        ({"data": "synthetic"}, "a4e53155ab91e275"),
    ],
)
def test_batches_are_those_of_the_first_version(changes: dict[str, Any], sha256: str) -> None:
    mixed = stream(**changes)
    rows = [ids(mixed, epoch, step) for epoch in range(6) for step in range(mixed.steps_per_epoch)]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == sha256


def test_a_rank_reads_every_nth_position_of_each_group() -> None:
    ids, part = stream().order.ids(3, 1), stream(rank=1, world_size=4).batch(3, 1)
    rows = [*ids.real[1::4].tolist(), *ids.seen[1::4].tolist(), *ids.novel[1::4].tolist()]
    assert [index for index, *_ in shown(part)] == rows
    assert part.labels.tolist() == [*ids.labels[1::4], *ids.labels[1::4], *ids.novel_labels[1::4]]
    assert part.domains.tolist() == [0, 0, 1, 1, 1, 1]
    assert part.sizes == (2, 2, 2)
    assert (part.images.dtype, part.labels.dtype, part.domains.dtype) == (torch.float32, torch.int64, torch.int64)


@quick
@given(
    seed=seeds,
    epoch=st.integers(0, 9),
    batch=st.integers(1, 15),
    rows=st.sets(st.integers(0, 11), min_size=1),
)
def test_an_epoch_contains_each_real_image(seed: int, epoch: int, batch: int, rows: set[int]) -> None:
    mixed = stream(seed=seed, batch=batch, real_rows=sorted(rows))
    counts = Counter(row for step in range(mixed.steps_per_epoch) for row in mixed.order.ids(epoch, step).real.tolist())
    assert set(counts) == rows
    assert sum(counts.values()) == mixed.steps_per_epoch * batch < len(rows) + batch


@quick
@given(seed=seeds, width=st.integers(1, 6), epoch=st.integers(0, 20), step=st.integers(0, 1))
def test_synthetic_images_are_sampled_from_the_window(seed: int, width: int, epoch: int, step: int) -> None:
    synthetic = stored(5, 6, 1)
    mixed = stream(seed=seed, synthetic=synthetic, window=width)
    shards = window(mixed, epoch, step)
    assert 1 <= len(shards) <= width
    ids = mixed.order.ids(epoch, step)
    assert set(synthetic.samples.shard[np.concatenate([ids.seen, ids.novel])].tolist()) <= shards


def test_all_images_of_a_class_in_the_window_are_sampled() -> None:
    synthetic, mixed = stored(5, 6, 2), stream(window=2)
    sampled: dict[tuple[int, ...], set[int]] = {}
    for epoch in range(200):
        sampled.setdefault(tuple(window(mixed, epoch, 0)), set()).update(mixed.order.ids(epoch, 0).seen.tolist())
    assert len(sampled) >= 3
    for shards, rows in sampled.items():
        expected = np.isin(synthetic.samples.shard, shards) & np.isin(synthetic.labels, BASE)
        assert rows == set(np.flatnonzero(expected).tolist())


def test_the_window_moves_over_the_whole_dataset() -> None:
    synthetic = stored(5, 6, 1)
    mixed = stream(synthetic=synthetic, window=1)
    rows = {row for epoch in range(100) for row in mixed.order.ids(epoch, 0).novel.tolist()}
    assert rows == set(np.flatnonzero(np.isin(synthetic.labels, NOVEL)).tolist())


def test_a_class_without_images_in_the_window_is_sampled_from_all_shards() -> None:
    synthetic = stored(5, 6, 2, without=tuple(3 + 5 * i for i in range(4)))  # class 3 only in the last of 3 shards
    mixed = stream(synthetic=synthetic, window=1, novel=[3], base=[0, 1, 2, 4])
    rows = {row for epoch in range(60) for row in mixed.order.ids(epoch, 0).novel.tolist()}
    assert set.union(*(window(mixed, epoch, 0) for epoch in range(60))) == {0, 1, 2}
    assert synthetic.samples.index[sorted(rows)].tolist() == [23, 28]


@quick
@given(images_per_class=st.integers(1, 3), seed=seeds, epoch=st.integers(0, 9), window=windows)
def test_a_subset_of_a_large_dataset_equals_a_small_dataset(
    images_per_class: int, seed: int, epoch: int, window: int | None
) -> None:
    large = stream(synthetic=stored(5, 6, 1), images_per_class=images_per_class, seed=seed, window=window)
    small = stream(synthetic=stored(5, images_per_class, 1), seed=seed, window=window)
    assert ids(large, epoch, 1) == ids(small, epoch, 1)
    assert max(large.order.ids(epoch, 1).seen.tolist()) < 5 * images_per_class


def test_novel_labels_are_sampled_uniformly() -> None:
    mixed = stream(batch=40)
    counts = Counter(label for epoch in range(50) for label in mixed.order.ids(epoch, 0).novel_labels.tolist())
    assert abs(counts[3] - 1000) < 67  # three standard deviations for n = 2000, p = 1/2


def test_without_novel_classes_there_is_no_novel_group() -> None:
    batch = stream(novel=[]).batch(0, 0)
    assert batch.sizes == (8, 8, 0)
    assert len(batch.images) == 16


def test_synthetic_data_has_the_labels_of_the_real_images() -> None:
    assert (
        stream(data="synthetic").order.ids(2, 1).labels.tolist() == stream(data="both").order.ids(2, 1).labels.tolist()
    )


def test_without_real_images_base_labels_are_sampled_uniformly() -> None:
    mixed = stream(real=None, data="synthetic")
    assert mixed.steps_per_epoch == 3  # 18 synthetic images of base classes in batches of 8
    counts = Counter(label for epoch in range(100) for label in mixed.order.ids(epoch, 1).labels.tolist())
    assert set(counts) == set(BASE)
    assert all(abs(count - 800 / 3) < 40 for count in counts.values())  # three standard deviations


@pytest.mark.parametrize("changes", [{"cache_images": 0}, {"cache_images": 500}, {}])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_caches_and_threads_do_not_change_batches(changes: dict[str, int], threads: int) -> None:
    expected = stream(cache_images=0)
    loaded = list(batches(stream(**changes), epochs=4, epoch=1, step=1, threads=threads))
    assert [(epoch, step) for epoch, step, _ in loaded] == [(1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
    for epoch, step, batch in loaded:
        assert torch.equal(batch.images, expected.batch(epoch, step).images)


def test_augmentation_differs_between_positions_steps_epochs_groups_and_seeds() -> None:
    mixed = [stream(seed=seed) for seed in (1, 2)]
    numbers = [number for m in mixed for e in (0, 1) for s in (0, 1) for _, number, *_ in shown(m.batch(e, s))]
    assert len(set(numbers)) > 0.99 * len(numbers) == 0.99 * 192


def damaged(tmp_path: Path, rows: list[int]) -> ShardSet:
    """A dataset in which the images of some rows are corrupt."""
    write_set(str(tmp_path), classes=5, rounds=6, rounds_per_shard=2)
    images = ShardSet(str(tmp_path), cache=ShardCache(check=False))
    for row in rows:
        with (tmp_path / f"{int(images.samples.shard[row]):05d}.tar").open("r+b") as file:
            file.seek(int(images.samples.offset[row]))
            file.write(b"no image")
    return images


@pytest.mark.fault
def test_a_corrupt_image_is_replaced_by_the_next_of_its_class_and_counted_once(
    tmp_path: Path, logged: list[str]
) -> None:
    mixed = stream(synthetic=damaged(tmp_path, [7, 12]))  # of class 2; the next intact row is 17
    for epoch in range(20):
        ids, batch = mixed.order.ids(epoch, 0), shown(mixed.batch(epoch, 0))
        for row, (index, _, label, _) in zip(ids.seen.tolist(), batch[8:16], strict=True):
            assert index == (17 if row in (7, 12) else row)
            assert index % 5 == label
    assert sorted(name.rsplit("/", 1)[1] for name in mixed.corruption.names) == [
        "00000.tar:000000007.jpg",
        "00001.tar:000000012.jpg",
    ]
    assert sum("skipped" in line for line in logged) == 2


@pytest.mark.fault
def test_a_corrupt_real_image_is_replaced_by_another_shot(tmp_path: Path) -> None:
    mixed = stream(real=damaged(tmp_path, [2]), synthetic=None, data="real", real_rows=[0, 1, 2, 7, 22])
    images = {index for epoch in range(5) for index, *_ in shown(mixed.batch(epoch, 0))}
    assert images == {0, 1, 7, 22}


@pytest.mark.fault
@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (range(10), {"max_corrupt_images": 3}, "4 unreadable images"),
        (range(3, 30, 5), {"novel": [3]}, "class id 3: all 6 images"),
    ],
)
def test_too_many_corrupt_images_are_an_error(
    tmp_path: Path, rows: range, changes: dict[str, Any], message: str
) -> None:
    mixed = stream(synthetic=damaged(tmp_path, list(rows)), **changes)
    with pytest.raises(UserError, match=message):
        for epoch in range(50):
            mixed.batch(epoch, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 8, "world_size": 3}, r"a batch of 8 image\(s\) can't be split evenly among 3"),
        ({"batch": 0}, "a batch of 0 image"),
        ({"real": None}, "training.data=both requires real images"),
        ({"real": None, "data": "real"}, "training.data=real requires real images"),
        ({"synthetic": None}, "training.data=both requires a synthetic dataset"),
        ({"synthetic": None, "data": "synthetic"}, "training.data=synthetic requires a synthetic dataset"),
        ({"real_rows": []}, "there are no real training images"),
        ({"window": 0}, "a window of 0 shards contains no image"),
        ({"images_per_class": 0}, "0 images per class"),
        ({"novel": [3, 7, 9]}, r"no synthetic images of 2 training class.*\(ids 7, 9\)"),
        ({"synthetic": stored(2, 2, 1), "novel": [0]}, r"no synthetic images of 1 training class\(es\) .*\(ids 2\)"),
    ],
)
def test_invalid_arguments_are_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        stream(**changes)


def test_a_remote_dataset_larger_than_its_cache_is_streamed(tmp_path: Path) -> None:
    url = f"memory://{tmp_path}"
    write_set(url, classes=5, rounds=6)
    size = ShardSet(url).shards[0].bytes
    cache = ShardCache(limit_bytes=3 * size)
    mixed = stream(synthetic=ShardSet(url, cache=cache), window=2, cache_images=0)
    local = stream(synthetic=stored(5, 6, 1), window=2)
    for epoch in range(12):
        assert shown(mixed.batch(epoch, 0)) == shown(local.batch(epoch, 0))
        with cache._lock:
            assert cache._used() <= 3 * size


def test_the_number_of_steps_per_epoch() -> None:
    """12 real images; 30 synthetic ones, of which a step reads two batches, or one without novel classes."""

    def steps(**changes: Any) -> int:
        return stream(**changes).steps_per_epoch

    assert [steps(epochs_over=over) for over in ("real", "synthetic", "longer")] == [2, 2, 2]
    assert [steps(epochs_over=over, batch=2) for over in ("real", "synthetic", "longer")] == [6, 8, 8]
    assert [steps(epochs_over=over, batch=2, images_per_class=2) for over in ("synthetic", "longer")] == [3, 6]
    assert steps(epochs_over="longer", novel=[], batch=2) == 15
    assert steps(epochs_over="longer", data="real", batch=2) == 6


@pytest.mark.parametrize("epochs_over", ["synthetic", "longer"])
def test_rounds_of_real_images_do_not_depend_on_the_epoch_length(epochs_over: str) -> None:
    expected, actual = (
        [mixed.order.ids(*divmod(step, mixed.steps_per_epoch)).real.tolist() for step in range(24)]
        for mixed in (stream(batch=2), stream(batch=2, epochs_over=epochs_over))
    )
    assert actual == expected


@pytest.mark.parametrize("changes", [{}, {"window": 1}, {"images_per_class": 3}, {"data": "synthetic"}])
def test_the_share_seen_is_that_of_the_batches(changes: dict[str, Any]) -> None:
    mixed = stream(batch=2, **changes)
    assert mixed.synthetic is not None
    global_batches = [mixed.order.ids(epoch, step) for epoch in range(2) for step in range(mixed.steps_per_epoch)]
    rows = {row for ids in global_batches for row in [*ids.seen.tolist(), *ids.novel.tolist()]}
    assert mixed.order.share_seen(2) == pytest.approx(len(rows) / len(mixed.synthetic))
    assert 0.3 < len(rows) / len(mixed.synthetic) <= 1


def test_the_share_seen_grows_with_epochs_and_copies_no_shard(tmp_path: Path) -> None:
    images = ShardSet(stored(5, 6, 2).url, cache=ShardCache(1 << 20, str(tmp_path)))
    mixed = stream(synthetic=images, window=1, epochs_over="synthetic", batch=2)
    assert mixed.order.share_seen(1) < mixed.order.share_seen(3) < mixed.order.share_seen(20) == 1
    assert not list(tmp_path.iterdir())
    assert stream(data="real").order.share_seen(3) is None
