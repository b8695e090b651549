"""All sides of the loader benchmark read the same images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.loader import OURS, PER_SHARD, SIDES, enlarge, images_of, jpeg, open_stream, write
from syncclip.shards.reader import ShardSet

pytestmark = [pytest.mark.nightly, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    write(folder, 70, 16)
    return folder


@pytest.mark.parametrize("side", [*OURS, "bare", "webdataset"])
def test_every_side_yields_the_same_images(folder: Path, side: str) -> None:
    sums = sorted(int(image.sum(dtype=torch.int64)) for batch in SIDES[side](folder, 0, 1) for image in batch)
    expected = sorted(int(image.sum(dtype=torch.int64)) for batch in SIDES["bare"](folder, 0, 1) for image in batch)
    # Ours fills the last batch from the start of the epoch.
    assert len(sums) == (128 if side in OURS else 70)
    assert set(sums) == set(expected)


def test_a_worker_yields_every_image(folder: Path) -> None:
    counts = {side: sum(images_of(side, folder, 1, passes=2)) for side in (*OURS, "bare", "webdataset")}
    assert counts == {"threads": 256, "processes": 256, "bare": 140, "webdataset": 140}


def test_an_enlarged_dataset_is_complete(tmp_path: Path) -> None:
    write(tmp_path, PER_SHARD, 8)
    enlarge(tmp_path, 3 * PER_SHARD)
    images = ShardSet(str(tmp_path))
    assert len(images) == 3 * PER_SHARD
    assert images.read(2 * PER_SHARD + 7) == jpeg(7, 8)
    assert open_stream(tmp_path).steps_per_epoch == -(-3 * PER_SHARD // 64)
