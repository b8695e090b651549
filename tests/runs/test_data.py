"""Training data of a run: several datasets, damaged ones, and ones of other classes."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from syncclip import jobs, storage
from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.datasets.packed import owner_of_split, pack
from syncclip.recipe.recipe import Recipe
from syncclip.runs import build, resolve
from syncclip.runs.data import real_sources, synthetic_sources
from syncclip.shards.index import forget_index
from syncclip.shards.reader import ShardSet
from syncclip.shards.writer import Sample, write_shard
from syncclip.stream.loader import batches
from syncclip.stream.mixed import MixedStream
from syncclip.studies.run import study
from syncclip.studies.tune import tune
from tests.conftest import TinyWorld
from tests.worlds.dataset import CLASSES, tiny_dataset


def recipe_of(tiny: TinyWorld, *overrides: str) -> Recipe:
    return Recipe.load(tiny.recipe, overrides)


def open_stream(recipe: Recipe) -> MixedStream:
    """The stream of a training."""
    resolved, _ = resolve.resolve_run(recipe)
    stream = build.build_stream(resolved, build.build_parts(resolved))
    assert stream is not None
    return stream


@pytest.fixture
def copy(tiny_set: str, tmp_path: Path) -> Path:
    """A copy of a synthetic dataset of two shards, each with one image per class."""
    return Path(shutil.copytree(tiny_set, tmp_path / "copy"))


def owner_of(folder: Path) -> str:
    return storage.read_owner(str(folder / "plan.json"))


def test_synthetic_datasets_are_mixed_by_weight(tiny: TinyWorld, tiny_set: str, copy: Path) -> None:
    stream = open_stream(recipe_of(tiny, f"training.synthetic=[{tiny_set},{{url: {copy}, weight: 3}}]"))
    seen = [row for epoch in range(60) for row in stream.order.ids(epoch, 0).seen.tolist()]
    assert abs(np.mean(np.array(seen) >= 12) - 3 / 4) < 3 * np.sqrt(3 / 16 / len(seen))


def test_hash_of_a_run_covers_its_synthetic_datasets_and_weights(tiny: TinyWorld, tiny_set: str, copy: Path) -> None:
    def run_hash(synthetic: str) -> str:
        return resolve.resolve_run(recipe_of(tiny, f"training.synthetic={synthetic}"))[1].recipe_hash

    assert run_hash(tiny_set) == run_hash(str(copy))  # of the same plan
    mixed = run_hash(f"[{tiny_set},{{url: {copy}, weight: 3}}]")
    assert mixed not in (run_hash(f"[{tiny_set},{copy}]"), run_hash(tiny_set))
    assert mixed == run_hash(f"[{{url: {copy}}},{{url: {tiny_set}, weight: 3}}]")


def test_shots_of_further_real_datasets_are_added(tiny: TinyWorld, tmp_path: Path) -> None:
    other = tiny_dataset(tmp_path / "other", train=2)
    values = ["training.data=real", "training.method=ivlp"]
    recipe = recipe_of(tiny, f"training.real=[{{url: {other}, weight: 2}}]", *values)
    stream = open_stream(recipe)
    assert stream.steps_per_epoch * stream.batch_size == 24  # 3 base classes x (4 shots once, 2 twice)
    counts = Counter(row for step in range(stream.steps_per_epoch) for row in stream.order.ids(0, step).real.tolist())
    assert sorted(counts.values()) == [1] * 12 + [2] * 6
    assert recipe.hash != recipe_of(tiny, *values).hash


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[]", "synthetic is an empty list"),
        ("[a,{url: a/}]", "a is listed twice"),
        ("[{url: a, weight: 0}]", r"training.synthetic\[0\].weight: 0 is not allowed"),
        ("[{url: a, wieght: 1}]", r"training.synthetic\[0\].wieght: no such key"),
    ],
)
def test_invalid_list_of_synthetic_datasets_is_an_error(tiny: TinyWorld, value: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_of(tiny, f"training.synthetic={value}")


def test_study_requires_a_single_synthetic_dataset(tiny: TinyWorld, tiny_set: str, copy: Path) -> None:
    with pytest.raises(UserError, match="must be a single dataset, not a list; .*shards merge"):
        resolve.find_synthetic(recipe_of(tiny, f"training.synthetic=[{tiny_set},{copy}]"))


def test_real_dataset_of_other_classes_is_an_error(tiny: TinyWorld, tmp_path: Path) -> None:
    other = tiny_dataset(tmp_path / "other")
    text = (other / "dataset.json").read_text()
    (other / "dataset.json").write_text(text.replace("green circle", "green oval"))
    recipe = recipe_of(tiny, f"training.real=[{other}]")
    with pytest.raises(UserError, match=r"class 1 is 'green oval', not 'green circle'"):
        real_sources(recipe, load_dataset(recipe.dataset))


def jpeg(size: tuple[int, int], claimed: tuple[int, int]) -> bytes:
    """A JPEG whose header claims another size."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    position = data.find(b"\xff\xc0") + 5
    data[position : position + 4] = claimed[0].to_bytes(2, "big") + claimed[1].to_bytes(2, "big")
    return bytes(data)


def rewrite(folder: Path, change: Callable[[Sample], Sample]) -> None:
    """Change the samples of the second shard."""
    images = ShardSet(str(folder))
    samples = [
        Sample(int(images.samples.index[row]), int(images.labels[row]), images.read(row), images.text(row))
        for row in np.flatnonzero(images.samples.shard == 1).tolist()
    ]
    write_shard(str(folder), 1, [change(sample) for sample in samples], owner=owner_of(folder))
    forget_index(str(folder))  # it would match a shard of the same size


def enlarge(sample: Sample) -> Sample:
    data = jpeg((8, 8), (30000, 30000)) if sample.label == 2 else sample.image_bytes
    return Sample(sample.index, sample.label, data, "x")


def shift_label(sample: Sample) -> Sample:
    return Sample(sample.index, sample.label + 6 * (sample.label == 5), sample.image_bytes, "x")


def flip_bit(folder: Path) -> None:
    data = bytearray((folder / "00001.tar").read_bytes())
    data[1500] ^= 4
    (folder / "00001.tar").write_bytes(bytes(data))


def empty(folder: Path, *shards: int) -> None:
    for shard in shards:
        write_shard(str(folder), shard, [], owner=owner_of(folder))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("damage", "name", "images", "reason"),
    [
        (flip_bit, "00001.tar", 6, "its checksum does not match"),
        (lambda copy: rewrite(copy, enlarge), ".jpg", 1, "900000000 pixels"),
        (lambda copy: (copy / "00001.parquet").write_bytes(b"PAR1"), ".parquet", 6, "unreadable"),
        (lambda copy: empty(copy, 1), "00001.tar", 0, "empty shard"),
    ],
    ids=["flipped bit", "huge image", "damaged table", "empty shard"],
)
def test_damaged_images_are_skipped_up_to_the_limit(
    tiny: TinyWorld, copy: Path, damage: Callable[[Path], None], name: str, images: int, reason: str
) -> None:
    damage(copy)
    if name == ".parquet":
        forget_index(str(copy))  # with an index, no table is read
    recipe = recipe_of(tiny, f"training.synthetic={copy}", f"training.max_corrupt_images={images}")
    stream = open_stream(recipe)
    for epoch, step, batch in batches(stream, 12):
        assert batch.labels[-4:].tolist() == stream.order.ids(epoch, step).novel_labels.tolist()
    [(url, lost)] = stream.corruption.names.items()
    assert (url.endswith(name), lost) == (True, images)
    assert reason in stream.corruption.reasons[url]
    if images:
        strict = recipe.with_values({"training.max_corrupt_images": images - 1})
        with pytest.raises(UserError, match=f"{images} unreadable images, more than the limit of {images - 1}"):
            list(batches(open_stream(strict), 12))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda copy: (copy / "00001.tar").unlink(), r"1 of 2 shards are missing or truncated \(00001.tar\)"),
        (
            lambda copy: (copy / "00001.tar").write_bytes((copy / "00001.tar").read_bytes()[:-600]),
            r"1 of 2 shards are missing or truncated \(00001.tar\)",
        ),
        (lambda copy: rewrite(copy, shift_label), r"00001.tar:000000011.jpg: class id 11 is out of range"),
        (lambda copy: empty(copy, 0, 1), "no images in 2 shards"),
    ],
    ids=["missing shard", "truncated tar", "label out of range", "no images"],
)
def test_incomplete_synthetic_dataset_is_an_error(
    tiny: TinyWorld, copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy)
    with pytest.raises(UserError, match=message):
        open_stream(recipe_of(tiny, f"training.synthetic={copy}", "training.max_corrupt_images=100"))


@pytest.mark.fault
def test_shard_that_is_removed_during_training_is_reported(tiny: TinyWorld, copy: Path) -> None:
    stream = open_stream(recipe_of(tiny, f"training.synthetic={copy}", "training.cache_images=0"))
    (copy / "00001.tar").unlink()
    list(batches(stream, 6))
    assert list(stream.corruption.names) == [str(copy / "00001.tar")]


@pytest.mark.fault
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_incomplete_packed_dataset_is_an_error(tmp_path: Path, split: str) -> None:
    original = load_dataset(DatasetSettings(name=str(tiny_dataset(tmp_path / "tiny"))))
    pack(original, str(tmp_path / "packed"), [2], [1])
    settings = DatasetSettings(name=str(tmp_path / "packed"))
    assert len(load_dataset(settings).split("test")) == 4 * len(CLASSES)
    rows = len(load_dataset(settings).split(split))
    owner = owner_of_split(storage.read_owner(str(tmp_path / "packed" / "dataset.json")), split)
    write_shard(str(tmp_path / "packed" / split), 0, [Sample(0, 0, jpeg((8, 8), (8, 8)), "x")], owner=owner)
    with pytest.raises(UserError, match=rf"{split}: only 1 of {rows} images; find"):
        load_dataset(settings)


def damaged_dataset(folder: Path, split: str) -> Path:
    dataset = tiny_dataset(folder)
    (dataset / split / "00000.parquet").write_bytes(b"torn")
    return dataset


@pytest.mark.fault
def test_damaged_test_split_is_reported_before_the_training(tiny: TinyWorld, tmp_path: Path) -> None:
    dataset = damaged_dataset(tmp_path / "tiny", "test")
    recipe = recipe_of(tiny, f"dataset.name={dataset}", "training.data=real")
    assert load_dataset(recipe.dataset).classnames == CLASSES  # which is sufficient for synthesis
    with pytest.raises(UserError, match=r"24 unreadable images, more than the limit of 16"):
        jobs.run_here(recipe, str(tmp_path / "run"))
    assert not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("split", "data", "message"),
    [
        ("test", "synthetic", "24 unreadable images, more than the limit of 16"),
        ("train", "both", "24 unreadable images, more than the limit of 16"),
        ("train", "synthetic", "the synthesis started"),
    ],
)
def test_damaged_split_is_reported_before_the_synthesis_of_a_study_that_uses_it(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, data: str, message: str
) -> None:
    def synth(*_: object) -> None:
        raise UserError("the synthesis started")

    monkeypatch.setattr(jobs, "synth", synth)
    dataset = damaged_dataset(tmp_path / "tiny", split)
    configurations = f"study.configurations=[{{method: ivlp, data: {data}}}]"
    with pytest.raises(UserError, match=message):
        study(recipe_of(tiny, f"dataset.name={dataset}", configurations), str(tmp_path / "study"))


@pytest.mark.fault
def test_damaged_validation_split_is_reported_before_a_search(tiny: TinyWorld, tmp_path: Path) -> None:
    dataset = damaged_dataset(tmp_path / "tiny", "val")
    configurations = "study.configurations=[{method: ivlp, search_space: {training.epochs: [1, 2]}}]"
    with pytest.raises(UserError, match="val: no shard has a readable table"):
        tune(recipe_of(tiny, f"dataset.name={dataset}", configurations), str(tmp_path / "tuned"))
    assert not (tmp_path / "tuned").exists()


def test_remote_shards_must_fit_the_cache(tiny: TinyWorld, tiny_set: str) -> None:
    url = f"memory://{tiny_set}"
    for name in storage.sizes(tiny_set):
        storage.write_bytes(f"{url}/{name}", Path(tiny_set, name).read_bytes())
    size = ShardSet(tiny_set).shards[0].bytes
    synthetic = f"training.synthetic={url}"
    with pytest.raises(UserError, match=r"training.cache_bytes is .*, but the shards in use"):
        synthetic_sources(recipe_of(tiny, synthetic, f"training.cache_bytes={size}"), 6)
    assert len(synthetic_sources(recipe_of(tiny, synthetic, "training.cache_bytes=0"), 6)) == 1
