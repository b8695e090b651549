from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets import Dataset, DatasetSettings, load_dataset
from syncclip.shards.images import decode_image
from syncclip.shards.writer import Sample, write_shard
from syncclip.synthesis import references
from syncclip.synthesis.generators.pipeline import Generator
from syncclip.synthesis.plan import Plan
from syncclip.synthesis.references import ReferenceImages, digests, real_images, store
from syncclip.synthesis.shard import generate_shard
from syncclip.synthesis.worker import ShardWorker
from syncclip.workers.report import Report
from tests.conftest import TinyWorld


@pytest.fixture
def dataset(tiny: TinyWorld) -> Dataset:
    return load_dataset(DatasetSettings(name=tiny.dataset))


@pytest.fixture
def images(dataset: Dataset) -> list[list[bytes]]:
    return real_images(dataset, shots=2, seed=1)


@pytest.fixture
def plan(make_plan: Callable[..., Plan], dataset: Dataset, images: list[list[bytes]], pipeline: Path) -> Plan:
    generator = {"pipeline": str(pipeline), "steps": 2, "batch_size": 3, "guide": {"strength": 0.6}}
    classes = tuple(dataset.classnames)
    return make_plan(3, classes=classes, generator=generator, guides=digests(images), shard_size=2 * len(classes))


def test_only_classes_with_shots_have_real_images(dataset: Dataset, images: list[list[bytes]]) -> None:
    assert [len(of_class) for of_class in images] == [2] * len(dataset.base) + [0] * len(dataset.novel)
    rows = dataset.few_shot(2, 1)
    files = {dataset.splits["train"].read(int(row)) for row in rows}
    assert {data for of_class in images for data in of_class} == files


def test_real_images_of_a_class_are_taken_in_turn_at_every_attempt(
    plan: Plan, dataset: Dataset, images: list[list[bytes]], tmp_path: Path
) -> None:
    store(images, dataset, str(tmp_path))
    references, classes = ReferenceImages(plan, str(tmp_path)), plan.classes
    for image, attempt in ((0, 0), (1, 0), (2, 0), (2, 1)):
        (found,) = references.of([plan.entry(image * classes, attempt)])
        assert found is not None and found.tobytes() == decode_image(images[0][image % 2], "").tobytes()
    assert references.of([plan.entry(classes - 1)]) == [None]


def test_laying_them_again_writes_nothing_and_a_lost_shard_is_written_again(
    dataset: Dataset, images: list[list[bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "SHARD_IMAGES", 2)
    store(images, dataset, str(tmp_path))
    (place,) = (tmp_path / "guides").iterdir()
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in place.glob("*.tar")}
    (place / "00001_stats.json").unlink()
    (place / "00001.tar").unlink()
    store(images, dataset, str(tmp_path))
    after = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in place.glob("*.tar")}
    assert {file: data for file, (data, _) in after.items()} == {file: data for file, (data, _) in before.items()}
    assert [file.name for file in before if after[file] != before[file]] == ["00001.tar"]


def test_missing_and_other_images_than_planned_are_errors(
    plan: Plan, dataset: Dataset, images: list[list[bytes]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="lacks the real images .*; run `syncclip synth`"):
        ReferenceImages(plan, str(tmp_path))
    store(images, dataset, str(tmp_path))
    (place,) = (tmp_path / "guides").iterdir()
    shutil.rmtree(place)
    turned = [of_class[::-1] for of_class in images]
    flat = [(label, data) for label, of_class in enumerate(turned) for data in of_class]
    samples = [Sample(index, label, data, "") for index, (label, data) in enumerate(flat)]
    write_shard(str(place), 0, samples, owner=storage.identity(place.name))
    with pytest.raises(UserError, match=r"00000.tar:000000000.jpg has changed; restore it"):
        ReferenceImages(plan, str(tmp_path)).of([plan.entry(0)])


def test_a_guided_shard_is_a_function_of_plan_and_folder_and_says_what_it_started_from(
    plan: Plan, dataset: Dataset, images: list[list[bytes]], tmp_path: Path
) -> None:
    tars = []
    for name in ("one", "two"):
        url = str(tmp_path / name)
        store(images, dataset, url)
        make = ShardWorker(plan.model_dump_json(), url, "cpu", plan.generator.pipeline)
        for shard in (1, 0) if name == "two" else (0, 1):
            assert Report(**make({"shard": shard})).error == ""
        tars.append([(tmp_path / name / f"0000{shard}.tar").read_bytes() for shard in (0, 1)])
    assert tars[0] == tars[1]
    known = ReferenceImages(plan, str(tmp_path / "one"))
    samples = generate_shard(plan, 0, Generator(plan.generator), [], known).samples
    for sample in samples:
        real = images[sample.label]
        image = sample.index // plan.classes
        assert sample.provenance["guide"] == (references.checksum_of(real[image % 2]) if real else None)
