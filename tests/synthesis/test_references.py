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
from syncclip.synthesis.shard import begin_shard
from syncclip.synthesis.worker import ShardWorker
from tests.conftest import TinyWorld

Images = list[list[bytes]]


@pytest.fixture
def dataset(tiny: TinyWorld) -> Dataset:
    return load_dataset(DatasetSettings(name=tiny.dataset))


@pytest.fixture
def images(dataset: Dataset) -> Images:
    return real_images(dataset, shots=2, seed=1)


@pytest.fixture
def plan(make_plan: Callable[..., Plan], dataset: Dataset, images: Images, pipeline: Path) -> Plan:
    generator = {"pipeline": str(pipeline), "steps": 2, "batch_size": 3, "guide": {"strength": 0.6}}
    classes = tuple(dataset.classnames)
    return make_plan(3, classes=classes, generator=generator, guides=digests(images), shard_size=2 * len(classes))


def test_only_classes_with_shots_have_real_images(dataset: Dataset, images: Images) -> None:
    assert [len(of_class) for of_class in images] == [2] * len(dataset.base) + [0] * len(dataset.novel)
    files = {dataset.splits["train"].read(int(row)) for row in dataset.few_shot(2, 1)}
    assert {data for of_class in images for data in of_class} == files


def test_real_images_of_a_class_are_used_in_turn(plan: Plan, dataset: Dataset, images: Images, tmp_path: Path) -> None:
    store(images, dataset, str(tmp_path))
    references, classes = ReferenceImages(plan, str(tmp_path)), plan.classes
    for image, attempt in ((0, 0), (1, 0), (2, 0), (2, 1)):
        (guide,) = references.of([plan.entry(image * classes, attempt)])
        assert guide is not None and guide.tobytes() == decode_image(images[0][image % 2], "").tobytes()
    assert references.of([plan.entry(classes - 1)]) == [None]


def test_only_missing_shards_of_real_images_are_written(
    dataset: Dataset, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "SHARD_IMAGES", 2)
    store(images, dataset, str(tmp_path))
    (folder,) = (tmp_path / "guides").iterdir()
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.glob("*.tar")}
    (folder / "00001_stats.json").unlink()
    (folder / "00001.tar").unlink()
    store(images, dataset, str(tmp_path))
    after = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.glob("*.tar")}
    assert {file: data for file, (data, _) in after.items()} == {file: data for file, (data, _) in before.items()}
    assert [file.name for file in before if after[file] != before[file]] == ["00001.tar"]


def test_missing_and_changed_images_are_errors(plan: Plan, dataset: Dataset, images: Images, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lacks the real images .*; run `syncclip synth`"):
        ReferenceImages(plan, str(tmp_path))
    store(images, dataset, str(tmp_path))
    (folder,) = (tmp_path / "guides").iterdir()
    shutil.rmtree(folder)
    rows = [(label, data) for label, of_class in enumerate(images) for data in of_class[::-1]]
    samples = [Sample(index, label, data, "") for index, (label, data) in enumerate(rows)]
    write_shard(str(folder), 0, samples, owner=storage.identity(folder.name))
    with pytest.raises(UserError, match=r"00000.tar:000000000.jpg has changed"):
        ReferenceImages(plan, str(tmp_path)).of([plan.entry(0)])


def test_a_guided_shard_is_deterministic_and_records_its_real_images(
    plan: Plan, dataset: Dataset, images: Images, tmp_path: Path
) -> None:
    tars = []
    for name, shards in (("one", (0, 1)), ("two", (1, 0))):
        url = str(tmp_path / name)
        store(images, dataset, url)
        worker = ShardWorker(plan.model_dump_json(), url, "cpu", plan.generator.pipeline)
        assert [worker.commit(worker.begin(shard)).error for shard in shards] == ["", ""]
        tars.append([(tmp_path / name / f"0000{shard}.tar").read_bytes() for shard in (0, 1)])
    assert tars[0] == tars[1]
    samples = begin_shard(
        plan, 0, Generator(plan.generator), [], ReferenceImages(plan, str(tmp_path / "one"))
    )().samples
    for sample in samples:
        real = images[sample.label]
        image = sample.index // plan.classes
        assert sample.provenance["guide"] == (references.checksum_of(real[image % 2]) if real else None)
