"""The sets that a recipe names: several mixed, damaged ones, and ones of other classes."""

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
from syncclip.datasets import load_dataset
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


def opened(recipe: Recipe) -> MixedStream:
    """The stream that a training of the recipe would read."""
    settled, _ = resolve.resolve_run(recipe)
    mixed = build.build_stream(settled, build.build_parts(settled))
    assert mixed is not None
    return mixed


@pytest.fixture
def copy(tiny_set: str, tmp_path: Path) -> Path:
    """Two shards of six images, one of each class, to be damaged."""
    return Path(shutil.copytree(tiny_set, tmp_path / "copy"))


def test_sets_are_mixed_by_their_weights(tiny: TinyWorld, tiny_set: str, copy: Path, tmp_path: Path) -> None:
    mixed = opened(recipe_of(tiny, f"training.synthetic=[{tiny_set},{{url: {copy}, weight: 3}}]"))
    seen = [row for epoch in range(60) for row in mixed.ids(epoch, 0).seen.tolist()]
    assert abs(np.mean(np.array(seen) >= 12) - 3 / 4) < 3 * np.sqrt(3 / 16 / len(seen))


def test_a_run_is_named_by_its_sets_and_their_weights(tiny: TinyWorld, tiny_set: str, copy: Path) -> None:
    def run_hash(synthetic: str) -> str:
        return resolve.resolve_run(recipe_of(tiny, f"training.synthetic={synthetic}"))[1].recipe_hash

    assert run_hash(tiny_set) == run_hash(str(copy))  # the same plan draws both
    mixed = run_hash(f"[{tiny_set},{{url: {copy}, weight: 3}}]")
    assert mixed not in (run_hash(f"[{tiny_set},{copy}]"), run_hash(tiny_set))
    assert mixed == run_hash(f"[{{url: {copy}}},{{url: {tiny_set}, weight: 3}}]")


def test_shots_of_more_real_sets_are_learned_from_too(tiny: TinyWorld, tmp_path: Path) -> None:
    other = tiny_dataset(tmp_path / "other", train=2)
    recipe = recipe_of(
        tiny, f"training.real=[{{url: {other}, weight: 2}}]", "training.data=real", "training.method=ivlp"
    )
    mixed = opened(recipe)
    assert mixed.steps_per_epoch * mixed.batch_size == 24  # 3 base classes x (4 shots once, 2 twice)
    shown = Counter(row for step in range(mixed.steps_per_epoch) for row in mixed.ids(0, step).real.tolist())
    assert sorted(shown.values()) == [1] * 12 + [2] * 6
    assert recipe.hash != recipe_of(tiny, "training.data=real", "training.method=ivlp").hash


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("[]", "synthetic is an empty list"),
        ("[a,{url: a/}]", "a is listed twice"),
        ("[{url: a, weight: 0}]", r"training.synthetic\[0\].weight: 0 is not allowed; it must be"),
        ("[{url: a, wieght: 1}]", r"training.synthetic\[0\].wieght: no such key; did you mean 'weight'"),
    ],
)
def test_lists_of_sets_that_make_no_sense_are_refused(tiny: TinyWorld, value: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        recipe_of(tiny, f"training.synthetic={value}")


def test_a_study_is_of_one_set(tiny: TinyWorld, tiny_set: str, copy: Path) -> None:
    with pytest.raises(UserError, match="must be a single set here; .*shards merge"):
        resolve.find_synthetic(recipe_of(tiny, f"training.synthetic=[{tiny_set},{copy}]"))


def test_a_real_set_of_other_classes_is_refused(tiny: TinyWorld, tmp_path: Path) -> None:
    other = tiny_dataset(tmp_path / "other")
    text = (other / "dataset.json").read_text()
    (other / "dataset.json").write_text(text.replace("green circle", "green oval"))
    recipe = recipe_of(tiny, f"training.real=[{other}]")
    with pytest.raises(UserError, match=r"class 1 is 'green oval', not 'green circle'"):
        real_sources(recipe, load_dataset(recipe.dataset))


def test_an_empty_set_is_refused(tiny: TinyWorld, copy: Path) -> None:
    for shard in range(2):
        write_shard(str(copy), shard, [], owner=owner_of(copy))
    with pytest.raises(UserError, match="2 shards without any image"):
        opened(recipe_of(tiny, f"training.synthetic={copy}"))


def jpeg(size: tuple[int, int], says: tuple[int, int]) -> bytes:
    """A JPEG of one size whose header says another."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    place = data.find(b"\xff\xc0") + 5
    data[place : place + 4] = says[0].to_bytes(2, "big") + says[1].to_bytes(2, "big")
    return bytes(data)


def owner_of(folder: Path) -> str:
    """Identity of a set, by its plan."""
    return storage.read_owner(str(folder / "plan.json"))


def rewrite(folder: Path, change: Callable[[Sample], Sample]) -> None:
    """Write the second shard anew, with other samples."""
    images = ShardSet(str(folder))
    rows = np.flatnonzero(images.samples.shard == 1).tolist()
    samples = [
        Sample(int(images.samples.index[row]), int(images.labels[row]), images.read(row), images.text(row))
        for row in rows
    ]
    write_shard(str(folder), 1, [change(sample) for sample in samples], owner=owner_of(folder))


def with_image(data: bytes) -> Callable[[Sample], Sample]:
    return lambda sample: Sample(sample.index, sample.label, data if sample.label == 2 else sample.image_bytes, "x")


def flip(folder: Path) -> None:
    data = bytearray((folder / "00001.tar").read_bytes())
    data[1500] ^= 4
    (folder / "00001.tar").write_bytes(bytes(data))


SKIPPED: list[tuple[str, Callable[[Path], None], str, int, str]] = [
    ("a flipped byte", flip, "00001.tar", 6, "its checksum differs"),
    (
        "a huge image",
        lambda at: rewrite(at, with_image(jpeg((8, 8), (30000, 30000)))),
        ".jpg",
        1,
        "900000000 pixels",
    ),
    ("a damaged table", lambda at: (at / "00001.parquet").write_bytes(b"PAR1") and None, ".parquet", 6, "unreadable"),
    (
        "empty shard",
        lambda at: write_shard(str(at), 1, [], owner=owner_of(at)) and None,
        "00001.tar",
        0,
        "empty shard",
    ),
]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("damage", "name", "images", "reason"), [case[1:] for case in SKIPPED], ids=[c[0] for c in SKIPPED]
)
def test_what_is_damaged_is_named_and_skipped_or_refused_as_the_recipe_says(
    tiny: TinyWorld, copy: Path, damage: Callable[[Path], None], name: str, images: int, reason: str
) -> None:
    damage(copy)
    if name == ".parquet":
        forget_index(str(copy))  # with an index no table is read
    mixed = opened(recipe_of(tiny, f"training.synthetic={copy}", f"training.max_corrupt_images={images}"))
    for epoch, step, batch in batches(mixed, 12):
        ids = mixed.ids(epoch, step)
        assert batch.labels[-4:].tolist() == ids.novel_labels.tolist()
    [(told, lost)] = mixed.corruption.names.items()
    assert (told.endswith(name), lost) == (True, images)
    assert reason in mixed.corruption.reasons[told]
    if images:
        with pytest.raises(UserError, match=f"{images} unreadable images, more than the limit of {images - 1}"):
            strict = recipe_of(tiny, f"training.synthetic={copy}", f"training.max_corrupt_images={images - 1}")
            list(batches(opened(strict), 12))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda at: (at / "00001.tar").unlink(), r"1 of 2 shards are missing or truncated \(00001.tar\); complete"),
        (
            lambda at: (at / "00001.tar").write_bytes((at / "00001.tar").read_bytes()[:-600]),
            r"1 of 2 shards are missing or truncated \(00001.tar\); complete",
        ),
        (
            lambda at: rewrite(
                at, lambda one: Sample(one.index, one.label + 6 * (one.label == 5), one.image_bytes, "x")
            ),
            r"00001.tar:000000011.jpg: class 11 is out of range \(0 to 5\); 1 image",
        ),
    ],
    ids=["a missing shard", "a truncated tar", "a class out of range"],
)
def test_what_cannot_be_trained_on_is_refused_with_its_name(
    tiny: TinyWorld, copy: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    damage(copy)
    with pytest.raises(UserError, match=sentence):
        opened(recipe_of(tiny, f"training.synthetic={copy}", "training.max_corrupt_images=100"))


@pytest.mark.fault
def test_a_shard_that_goes_missing_later_is_named_too(tiny: TinyWorld, copy: Path) -> None:
    mixed = opened(recipe_of(tiny, f"training.synthetic={copy}", "training.cache_images=0"))
    (copy / "00001.tar").unlink()
    list(batches(mixed, 6))
    assert list(mixed.corruption.names) == [str(copy / "00001.tar")]


@pytest.mark.fault
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_packed_dataset_has_all_its_images_or_is_refused(tmp_path: Path, split: str) -> None:
    from syncclip.datasets import DatasetSettings
    from syncclip.datasets.packed import owner_of_split, pack

    pack(
        load_dataset(DatasetSettings(name=str(tiny_dataset(tmp_path / "tiny")))),
        str(tmp_path / "packed"),
        [2],
        [1],
    )
    settings = DatasetSettings(name=str(tmp_path / "packed"))
    assert len(load_dataset(settings).split("test")) == 4 * len(CLASSES)
    rows = len(load_dataset(settings).split(split))  # type: ignore[arg-type]
    owner = owner_of_split(storage.read_owner(str(tmp_path / "packed" / "dataset.json")), split)
    write_shard(str(tmp_path / "packed" / split), 0, [Sample(0, 0, jpeg((8, 8), (8, 8)), "x")], owner=owner)
    with pytest.raises(UserError, match=rf"{split}: only 1 of {rows} images; find"):
        load_dataset(settings)


@pytest.mark.fault
def test_a_damaged_table_of_the_tested_split_is_refused_before_the_training(tiny: TinyWorld, tmp_path: Path) -> None:
    dataset = tiny_dataset(tmp_path / "tiny")
    (dataset / "test" / "00000.parquet").write_bytes(b"torn")
    recipe = recipe_of(tiny, f"dataset.name={dataset}", "training.data=real")
    assert load_dataset(recipe.dataset).classnames == CLASSES  # all that a synthesis needs
    with pytest.raises(UserError, match=r"24 unreadable images, more than the limit of 16"):
        jobs.run_here(recipe, str(tmp_path / "run"))
    assert not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("split", "data", "outcome"),
    [
        ("test", "synthetic", "24 unreadable images, more than the limit of 16"),
        ("train", "both", "24 unreadable images, more than the limit of 16"),
        ("train", "synthetic", "the synthesis began"),
    ],
)
def test_a_damaged_table_is_refused_before_the_synthesis_of_a_study_whose_configurations_need_its_split(
    tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, data: str, outcome: str
) -> None:
    def begin(*_: object) -> None:
        raise UserError("the synthesis began")

    dataset = tiny_dataset(tmp_path / "tiny")
    (dataset / split / "00000.parquet").write_bytes(b"torn")
    monkeypatch.setattr(jobs, "synth", begin)
    configurations = f"study.configurations=[{{method: ivlp, data: {data}}}]"
    with pytest.raises(UserError, match=outcome):
        study(recipe_of(tiny, f"dataset.name={dataset}", configurations), str(tmp_path / "study"))


@pytest.mark.fault
def test_a_damaged_validation_split_is_refused_before_candidates_are_tried_on_it(
    tiny: TinyWorld, tmp_path: Path
) -> None:
    dataset = tiny_dataset(tmp_path / "tiny")
    (dataset / "val" / "00000.parquet").write_bytes(b"torn")
    configurations = "study.configurations=[{method: ivlp, search_space: {training.epochs: [1, 2]}}]"
    with pytest.raises(UserError, match="val: no shard has a readable table"):
        tune(recipe_of(tiny, f"dataset.name={dataset}", configurations), str(tmp_path / "choice"))
    assert not (tmp_path / "choice").exists()


def test_remote_shards_that_do_not_fit_the_cache_are_refused(tiny: TinyWorld, tiny_set: str) -> None:
    url = f"memory://{tiny_set}"
    for name in storage.sizes(tiny_set):
        storage.write_bytes(f"{url}/{name}", Path(tiny_set, name).read_bytes())
    size = ShardSet(tiny_set).shards[0].bytes
    named = f"training.synthetic={url}"
    with pytest.raises(UserError, match=r"training.cache_bytes is .*, but the shards in use"):
        synthetic_sources(recipe_of(tiny, named, f"training.cache_bytes={size}"), 6)
    assert len(synthetic_sources(recipe_of(tiny, named, "training.cache_bytes=0"), 6)) == 1
