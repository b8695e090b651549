"""The mixed stream as a function of (seed, epoch, step)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.shards.cache import ShardCache
from syncclip.shards.reader import ShardSet
from syncclip.stream.batch import Batch
from syncclip.stream.loader import batches
from syncclip.stream.mixed import MixedStream
from syncclip.stream.sources import MixedSource
from tests.shards.sets import index_of, write_set

BASE, NOVEL = [0, 1, 2], [3, 4]  # five classes
DATA: list[Literal["real", "synthetic", "both"]] = ["real", "synthetic", "both"]
quick = settings(max_examples=40)


@lru_cache
def stored(classes: int, rounds: int, per_shard: int, without: tuple[int, ...] = ()) -> ShardSet:
    url = f"memory://stream/{classes}-{rounds}-{per_shard}-{'-'.join(map(str, without))}"
    write_set(url, classes, rounds, per_shard, without)
    return ShardSet(url)


def show(image: Image.Image, generator: torch.Generator) -> torch.Tensor:
    """A transform that keeps the sample's index and what the generator drew."""
    return torch.tensor([float(index_of(image)), float(torch.randint(1 << 20, (), generator=generator))]).view(2, 1, 1)


def stream(**changes: Any) -> MixedStream:
    """Three base classes with 4 real images each, five classes with 6 synthetic ones, batches of 8."""
    given: dict[str, Any] = {
        "real": stored(3, 4, 4),
        "synthetic": stored(5, 6, 2),
        "transform": show,
        "batch": 8,
        "seed": 1,
        "base": BASE,
        "novel": NOVEL,
        **changes,
    }
    real, synthetic, rows = given.pop("real"), given.pop("synthetic"), given.pop("real_rows", None)
    return MixedStream(
        [] if real is None else [MixedSource(real, rows=rows)],
        synthetic if isinstance(synthetic, list) else [] if synthetic is None else [MixedSource(synthetic)],
        **given,
    )


def shown(batch: Batch) -> list[tuple[int, int, int, int]]:
    """(sample, number drawn, label, domain) of every image."""
    samples, drawn = batch.images[:, 0, 0, 0].long(), batch.images[:, 1, 0, 0].long()
    return list(zip(*(t.tolist() for t in (samples, drawn, batch.labels, batch.domains)), strict=True))


def flat(mixed: MixedStream, epoch: int, step: int) -> list[list[int]]:
    ids = mixed.ids(epoch, step)
    return [ids.real.tolist(), ids.seen.tolist(), ids.novel.tolist(), ids.labels.tolist(), ids.novel_labels.tolist()]


@quick
@given(seed=st.integers(-5, 2**40), epoch=st.integers(0, 50), step=st.integers(0, 1), data=st.sampled_from(DATA))
def test_every_image_shows_the_label_it_is_given(
    seed: int, epoch: int, step: int, data: Literal["real", "synthetic", "both"]
) -> None:
    mixed = stream(seed=seed, data=data)
    ids = mixed.ids(epoch, step)
    real, synthetic = stored(3, 4, 4), stored(5, 6, 2)
    assert (len(ids.real), len(ids.seen), len(ids.novel)) == {
        "real": (8, 0, 0),
        "synthetic": (0, 8, 8),
        "both": (8, 8, 8),
    }[data]
    assert real.labels[ids.real].tolist() == ids.labels.tolist()[: len(ids.real)]
    assert synthetic.labels[ids.seen].tolist() == ids.labels.tolist()[: len(ids.seen)]
    assert synthetic.labels[ids.novel].tolist() == ids.novel_labels.tolist()
    assert set(ids.novel_labels.tolist()) <= set(NOVEL)


@quick
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 50), data=st.data())
def test_a_batch_is_a_pure_function_of_seed_epoch_and_step(seed: int, epoch: int, data: st.DataObject) -> None:
    mixed = stream(seed=seed, batch=4, window=2)
    places = [(epoch, step) for step in range(mixed.steps_per_epoch)] + [(epoch + 1, 0)]
    first = {place: flat(mixed, *place) for place in places}
    for place in data.draw(st.permutations(places)):
        assert flat(stream(seed=seed, batch=4, window=2), *place) == first[place]


@quick
@given(
    epoch=st.integers(0, 9),
    step=st.integers(0, 1),
    window=st.sampled_from([None, 1, 2]),
    data=st.sampled_from(DATA),
    weight=st.sampled_from([None, 0.5, 3.0]),
)
def test_one_by_eight_two_by_four_and_four_by_two_see_the_same_images(
    epoch: int, step: int, window: int | None, data: Literal["real", "synthetic", "both"], weight: float | None
) -> None:
    several = {"synthetic": [MixedSource(stored(5, 6, 2)), MixedSource(stored(5, 2, 1), weight)]} if weight else {}
    changes = {"window": window, "data": data, **several}
    whole = sorted(shown(stream(**changes).batch(epoch, step)))
    for world in (2, 4, 8):
        parts = [stream(**changes, rank=rank, world_size=world).batch(epoch, step) for rank in range(world)]
        assert sorted(image for part in parts for image in shown(part)) == whole
        assert {part.sizes for part in parts} == {tuple(n // world for n in stream(data=data).batch(0, 0).sizes)}


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "0bc1f85c1b9aa9f1"),
        ({"window": 1}, "e279398724a653a3"),
        ({"window": 2, "batch": 4, "images_per_class": 3}, "8321c9e29f492971"),
        ({"data": "synthetic"}, "a4e53155ab91e275"),
    ],
)
def test_batches_are_those_of_the_first_version(changes: dict[str, Any], digest: str) -> None:
    mixed = stream(**changes)
    ids = [flat(mixed, epoch, step) for epoch in range(6) for step in range(mixed.steps_per_epoch)]
    assert hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16] == digest


def test_a_rank_takes_every_world_sizeth_position_of_each_group() -> None:
    ids, part = stream().ids(3, 1), stream(rank=1, world_size=4).batch(3, 1)
    rows = [*ids.real[1::4].tolist(), *ids.seen[1::4].tolist(), *ids.novel[1::4].tolist()]
    assert [index for index, *_ in shown(part)] == rows
    assert part.labels.tolist() == [*ids.labels[1::4], *ids.labels[1::4], *ids.novel_labels[1::4]]
    assert part.domains.tolist() == [0, 0, 1, 1, 1, 1]
    assert part.sizes == (2, 2, 2)


def test_a_batch_is_typed_as_the_methods_expect() -> None:
    batch = stream().batch(0, 0)
    assert batch.images.dtype == torch.float32
    assert (batch.labels.dtype, batch.domains.dtype) == (torch.int64, torch.int64)
    assert batch.to("cpu").sizes == batch.sizes == (8, 8, 8)


@quick
@given(
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 9),
    batch=st.integers(1, 15),
    rows=st.sets(st.integers(0, 11), min_size=1),
)
def test_an_epoch_shows_each_chosen_real_image(seed: int, epoch: int, batch: int, rows: set[int]) -> None:
    mixed = stream(seed=seed, batch=batch, real_rows=sorted(rows))
    taken = Counter(row for step in range(mixed.steps_per_epoch) for row in mixed.ids(epoch, step).real.tolist())
    assert set(taken) == rows
    assert sum(taken.values()) == mixed.steps_per_epoch * batch < len(rows) + batch


@quick
@given(seed=st.integers(0, 2**40), width=st.integers(1, 6), epoch=st.integers(0, 20), step=st.integers(0, 1))
def test_partners_come_from_the_windows_shards(seed: int, width: int, epoch: int, step: int) -> None:
    synthetic = stored(5, 6, 1)
    mixed = stream(seed=seed, synthetic=synthetic, window=width)
    [window] = mixed.window(epoch, step)
    assert 1 <= len(window) <= width
    ids = mixed.ids(epoch, step)
    assert set(synthetic.samples.shard[np.concatenate([ids.seen, ids.novel])].tolist()) <= set(window)


def test_partners_are_drawn_from_all_images_of_their_class_in_the_window() -> None:
    synthetic, mixed = stored(5, 6, 2), stream(window=2)
    seen: dict[tuple[int, ...], set[int]] = {}
    for epoch in range(200):
        seen.setdefault(tuple(mixed.window(epoch, 0)[0]), set()).update(mixed.ids(epoch, 0).seen.tolist())
    assert len(seen) >= 3
    for window, rows in seen.items():
        inside = np.isin(synthetic.samples.shard, window) & np.isin(synthetic.labels, BASE)
        assert rows == set(np.flatnonzero(inside).tolist())


def test_the_window_passes_over_the_whole_set() -> None:
    synthetic = stored(5, 6, 1)
    mixed = stream(synthetic=synthetic, window=1)
    rows = {row for epoch in range(100) for row in mixed.ids(epoch, 0).novel.tolist()}
    assert rows == set(np.flatnonzero(np.isin(synthetic.labels, NOVEL)).tolist())


def test_a_class_without_an_image_in_the_window_falls_back_to_all_its_images() -> None:
    lacking = stored(5, 6, 2, without=tuple(3 + 5 * i for i in range(4)))  # class 3 only in the last of 3 shards
    mixed = stream(synthetic=lacking, window=1, novel=[3], base=[0, 1, 2, 4])
    windows = {tuple(mixed.window(epoch, 0)[0]) for epoch in range(60)}
    rows = {row for epoch in range(60) for row in mixed.ids(epoch, 0).novel.tolist()}
    assert windows == {(0,), (1,), (2,)}
    assert lacking.samples.index[sorted(rows)].tolist() == [23, 28]


@quick
@given(
    amount=st.integers(1, 3), seed=st.integers(0, 2**40), epoch=st.integers(0, 9), window=st.sampled_from([None, 1, 2])
)
def test_the_first_images_of_a_large_set_stream_like_a_small_set(
    amount: int, seed: int, epoch: int, window: int | None
) -> None:
    large = stream(synthetic=stored(5, 6, 1), images_per_class=amount, seed=seed, window=window)
    small = stream(synthetic=stored(5, amount, 1), seed=seed, window=window)
    assert flat(large, epoch, 1) == flat(small, epoch, 1)
    assert max(large.ids(epoch, 1).seen.tolist()) < 5 * amount


def test_novel_labels_are_drawn_evenly() -> None:
    mixed = stream(batch=40)
    counts = Counter(label for epoch in range(50) for label in mixed.ids(epoch, 0).novel_labels.tolist())
    # n = 2000, p = 1/2: three standard deviations are 67
    assert abs(counts[3] - 1000) < 67


def test_without_novel_classes_there_is_no_novel_group() -> None:
    batch = stream(novel=[]).batch(0, 0)
    assert batch.sizes == (8, 8, 0)
    assert len(batch.images) == 16


def test_on_synthetic_data_labels_come_as_those_of_the_real_images_would() -> None:
    assert stream(data="synthetic").ids(2, 1).labels.tolist() == stream(data="both").ids(2, 1).labels.tolist()


def test_without_real_images_labels_are_drawn_evenly_from_the_base_classes() -> None:
    mixed = stream(real=None, data="synthetic")
    assert mixed.steps_per_epoch == 3  # 18 synthetic images of base classes in batches of 8
    counts = Counter(label for epoch in range(100) for label in mixed.ids(epoch, 1).labels.tolist())
    assert set(counts) == set(BASE)
    assert all(abs(count - 800 / 3) < 40 for count in counts.values())  # three standard deviations


@pytest.mark.parametrize("changes", [{"cache_images": 0}, {"cache_images": 500}, {}])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_caches_and_threads_change_nothing(changes: dict[str, int], threads: int) -> None:
    plain = stream(cache_images=0)
    made = list(batches(stream(**changes), epochs=4, epoch=1, step=1, threads=threads))
    assert [(epoch, step) for epoch, step, _ in made] == [(1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
    for epoch, step, batch in made:
        assert torch.equal(batch.images, plain.batch(epoch, step).images)


def test_batches_can_be_left_in_the_middle() -> None:
    made = batches(stream(), epochs=10**6, threads=2)
    next(made)
    made.close()


def test_augmentation_differs_between_positions_steps_epochs_groups_and_seeds() -> None:
    numbers = [
        n for seed in (1, 2) for e in (0, 1) for s in (0, 1) for _, n, *_ in shown(stream(seed=seed).batch(e, s))
    ]
    assert len(set(numbers)) > 0.99 * len(numbers) == 0.99 * 192


def damaged(tmp_path: Path, rows: list[int]) -> ShardSet:
    write_set(str(tmp_path), classes=5, rounds=6, rounds_per_shard=2)
    images = ShardSet(str(tmp_path), cache=ShardCache(check=False))
    for row in rows:
        with (tmp_path / f"{int(images.samples.shard[row]):05d}.tar").open("r+b") as file:
            file.seek(int(images.samples.offset[row]))
            file.write(b"no image")
    return images


@pytest.mark.fault
def test_a_damaged_image_is_replaced_by_the_next_of_its_class_and_counted_once(
    tmp_path: Path, logged: list[str]
) -> None:
    mixed = stream(synthetic=damaged(tmp_path, [7, 12]))  # of class 2; the next sound one is 17
    met = set()
    for epoch in range(20):
        ids, batch = mixed.ids(epoch, 0), shown(mixed.batch(epoch, 0))
        for row, (index, _, label, _) in zip(ids.seen.tolist(), batch[8:16], strict=True):
            assert index == (17 if row in (7, 12) else row)
            assert index % 5 == label
            met |= {row} & {7, 12}
    assert met == {7, 12}
    assert sorted(name.rsplit("/", 1)[1] for name in mixed.corruption.names) == [
        "00000.tar:000000007.jpg",
        "00001.tar:000000012.jpg",
    ]
    assert sum("skipped" in line for line in logged) == 2


@pytest.mark.fault
def test_a_damaged_real_image_is_replaced_by_another_of_the_few_shots(tmp_path: Path) -> None:
    mixed = stream(real=damaged(tmp_path, [2]), synthetic=None, data="real", real_rows=[0, 1, 2, 7, 22])
    images = {index for epoch in range(5) for index, *_ in shown(mixed.batch(epoch, 0))}
    assert images == {0, 1, 7, 22}


@pytest.mark.fault
def test_more_damaged_images_than_the_limit_are_an_error(tmp_path: Path) -> None:
    mixed = stream(synthetic=damaged(tmp_path, list(range(10))), max_corrupt_images=3)
    with pytest.raises(UserError, match="4 unreadable images"):
        for epoch in range(50):
            mixed.batch(epoch, 0)


@pytest.mark.fault
def test_a_class_with_damaged_images_only_is_an_error(tmp_path: Path) -> None:
    mixed = stream(synthetic=damaged(tmp_path, list(range(3, 30, 5))), novel=[3])
    with pytest.raises(UserError, match="class 3: none of its 6 images"):
        mixed.batch(0, 0)


def test_labels_without_a_synthetic_image_are_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"no synthetic image of 2 class.*\(ids 7, 9\)"):
        stream(novel=[3, 7, 9])
    with pytest.raises(UserError, match=r"no synthetic image of 1 class\(es\) .*\(ids 2\)"):
        stream(synthetic=stored(2, 2, 1), novel=[0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch": 8, "world_size": 3}, r"a batch of 8 can't be split among 3"),
        ({"batch": 0}, "a batch of 0 can't"),
        ({"real": None}, "training on 'both' data requires real images"),
        ({"real": None, "data": "real"}, "training on 'real' data requires real images"),
        ({"synthetic": None}, "training on 'both' data requires a synthetic dataset"),
        ({"synthetic": None, "data": "synthetic"}, "training on 'synthetic' data requires a synthetic dataset"),
        ({"real_rows": []}, "no real image to train on"),
        ({"window": 0}, "a window of 0 shards contains no image"),
        ({"images_per_class": 0}, "0 images per class is an empty subset"),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        stream(**changes)


def test_shards_that_have_no_marker_are_not_streamed(tmp_path: Path) -> None:
    write_set(str(tmp_path), classes=5, rounds=4, rounds_per_shard=2)
    storage.remove(str(tmp_path / "00001_stats.json"))
    mixed = stream(synthetic=ShardSet(str(tmp_path)))
    rows = {row for epoch in range(50) for row in mixed.ids(epoch, 0).seen.tolist()}
    assert max(rows) < 10


def test_a_remote_set_larger_than_its_cache_streams_within_the_window(tmp_path: Path) -> None:
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


def steps(**changes: Any) -> int:
    return stream(**changes).steps_per_epoch


def test_an_epoch_is_as_long_as_what_it_goes_through() -> None:
    # 12 real images in batches of 8; 30 synthetic ones, of which a step takes 16, or 8 without novel classes
    assert [steps(epochs_over=over) for over in ("real", "synthetic", "longer")] == [2, 2, 2]
    assert [steps(epochs_over=over, batch=2) for over in ("real", "synthetic", "longer")] == [6, 8, 8]
    assert [steps(epochs_over=over, batch=2, images_per_class=2) for over in ("synthetic", "longer")] == [3, 6]
    assert steps(epochs_over="longer", novel=[], batch=2) == 15
    assert steps(epochs_over="longer", data="real", batch=2) == 6


@pytest.mark.parametrize("over", ["synthetic", "longer"])
def test_real_images_come_in_whole_rounds_whatever_an_epoch_is(over: str) -> None:
    rounds, epochs = stream(batch=2), stream(batch=2, epochs_over=over)
    found = [epochs.ids(*divmod(place, epochs.steps_per_epoch)).real.tolist() for place in range(24)]
    assert found == [rounds.ids(*divmod(place, rounds.steps_per_epoch)).real.tolist() for place in range(24)]


@pytest.mark.parametrize("changes", [{}, {"window": 1}, {"images_per_class": 3}, {"data": "synthetic"}])
def test_the_share_seen_is_that_of_the_images_in_the_batches(changes: dict[str, Any]) -> None:
    mixed = stream(batch=2, **changes)
    assert mixed.synthetic is not None
    made = [mixed.ids(epoch, step) for epoch in range(2) for step in range(mixed.steps_per_epoch)]
    seen = {row for ids in made for row in [*ids.seen.tolist(), *ids.novel.tolist()]}
    assert mixed.share_seen(2) == pytest.approx(len(seen) / len(mixed.synthetic.labels))
    assert 0.3 < len(seen) / len(mixed.synthetic.labels) <= 1


def test_more_epochs_over_the_synthetic_images_show_them_all() -> None:
    mixed = stream(epochs_over="synthetic", batch=2)
    assert mixed.share_seen(1) < mixed.share_seen(3) < mixed.share_seen(20) == 1


def test_without_synthetic_images_there_is_no_share() -> None:
    assert stream(data="real").share_seen(3) is None


def test_what_was_seen_is_found_without_copying_a_shard(tmp_path: Path) -> None:
    there = stored(5, 6, 2)
    cached = ShardSet(there.url, cache=ShardCache(1 << 20, str(tmp_path)))
    stream(synthetic=cached, window=1).share_seen(3)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tar"]
