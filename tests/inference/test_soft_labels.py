"""`write_soft_labels`: the same bytes for any number of actors and any kill; errors for unsuitable teachers."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from syncclip.core.settings import UserError
from syncclip.inference import soft_labels
from syncclip.inference.model import load
from syncclip.inference.passes import Passed
from syncclip.inference.soft_labels import ShardTeacher, write_soft_labels
from syncclip.recipe.recipe import Recipe
from syncclip.shards.cache import ShardCache
from syncclip.shards.images import UnreadableImageError
from syncclip.shards.reader import ShardSet
from syncclip.stream.teacher import TEACHER, VECTORS, Teacher, read_teacher
from syncclip.verify import verify
from syncclip.workers.job import Computation
from syncclip.workers.settings import Pool
from tests.conftest import TinyWorld
from tests.inference.conftest import Train
from tests.worlds.dataset import folder_of_folders
from tests.worlds.synthetic import generate_here
from tests.worlds.teacher import teach_here, zero_shot


@pytest.fixture(scope="module")
def run(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> str:
    return zero_shot(tiny.recipe, tmp_path_factory.mktemp("teacher"))


@pytest.fixture
def other(tiny: TinyWorld, tmp_path: Path) -> str:
    """A teacher of the same classes with other predictions."""
    return zero_shot(tiny.recipe, tmp_path / "run", "methods.zeroshot.templates=['a {}.']")


class DiesOnce(ShardTeacher):
    """A worker that kills its process at the second shard, once."""

    def begin(self, shard: int) -> Computation[Any]:
        marker = Path(self.job.out) / "died"
        if shard == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().begin(shard)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def probabilities(folder: Path, shard: int = 0) -> np.ndarray:
    array: np.ndarray = load_file(folder / f"0000{shard}.safetensors")["probabilities"]
    return array


def test_soft_labels_are_the_models_probabilities_in_the_order_of_the_table(
    run: str, tiny_set: str, tmp_path: Path
) -> None:
    assert teach_here(run, tiny_set, str(tmp_path)) == Passed(str(tmp_path), 2, 12, 0)
    model, images, index = load(run), ShardSet(tiny_set), read_teacher(str(tmp_path))
    assert index.classnames == tuple(model.classes) and index.dim == model.text_features().shape[1]
    np.testing.assert_array_equal(load_file(tmp_path / VECTORS)["class_vectors"], model.text_features())
    samples = images.samples.at(np.arange(12))
    for row, (shard, position) in enumerate(zip(samples.shard, samples.place, strict=True)):
        actual = probabilities(tmp_path, shard)
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual[position], model.probabilities([images.image(row)])[0], atol=1e-6)


def test_learned_prompts_change_the_soft_labels(tiny_set: str, train: Train, tmp_path: Path) -> None:
    run = train("training.method=syncclip", "methods.syncclip.learning_rate=1").url
    teach_here(run, tiny_set, str(tmp_path / "out"))
    images = [ShardSet(tiny_set).image(row) for row in range(6)]
    np.testing.assert_allclose(probabilities(tmp_path / "out"), load(run).probabilities(images), atol=1e-6)


def test_existing_files_are_kept_and_missing_ones_computed_again(
    run: str, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = teach_here(run, tiny_set, str(tmp_path))
    complete, computed, compute = files(tmp_path), [], ShardTeacher.compute
    monkeypatch.setattr(ShardTeacher, "compute", lambda self, name: computed.append(name) or compute(self, name))
    assert teach_here(run, tiny_set, str(tmp_path)) == done and computed == []
    for missing in (["00001.json"], ["00001.safetensors", TEACHER], [VECTORS, TEACHER]):  # the states after a kill
        for name in missing:
            (tmp_path / name).unlink()
        assert teach_here(run, tiny_set, str(tmp_path)) == done and files(tmp_path) == complete
    assert computed == ["00001.tar", "00001.tar"]


@pytest.mark.fault
@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"?")], ids=["removed", "damaged"])
def test_damaged_class_vectors_are_an_error_and_written_again(
    run: str, tiny_set: str, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    teach_here(run, tiny_set, str(tmp_path))
    before = files(tmp_path)
    damage(tmp_path / VECTORS)
    with pytest.raises(UserError, match=f"{VECTORS}: the teacher file is missing or corrupt"):
        Teacher(str(tmp_path), ShardCache()).class_vectors()
    teach_here(run, tiny_set, str(tmp_path))
    assert files(tmp_path) == before


@pytest.mark.fault
@pytest.mark.parametrize("name", ["00000.safetensors", "00000.json", VECTORS, TEACHER])
@pytest.mark.parametrize("damage", ["flipped", "emptied", "removed", "exchanged"])
def test_damage_is_reported_by_verify_and_repaired_by_the_same_command(
    run: str, other: str, tiny_set: str, tmp_path: Path, name: str, damage: str
) -> None:
    out = tmp_path / "out"
    teach_here(run, tiny_set, str(out))
    before = files(out)
    assert verify(str(out), lambda _: None).problems == []
    if damage == "flipped":
        (out / name).write_bytes(before[name][:-2] + bytes([before[name][-2] ^ 4]) + before[name][-1:])
    elif damage == "emptied":
        (out / name).write_bytes(b"")
    elif damage == "removed":
        (out / name).unlink()
    elif name.startswith("0"):
        shutil.copy(out / name.replace("00000", "00001"), out / name)
    else:
        teach_here(other, tiny_set, str(tmp_path / "other"))
        shutil.copy(tmp_path / "other" / name, out / name)
    problems = verify(str(out), lambda _: None).problems
    assert any(str(out / name.partition(".")[0]) in problem for problem in problems)
    if name == TEACHER and damage in ("flipped", "emptied"):
        with pytest.raises(UserError, match=str(out / TEACHER)):
            read_teacher(str(out))
        (out / TEACHER).unlink()
    teach_here(run, tiny_set, str(out))
    assert files(out) == before and verify(str(out), lambda _: None).problems == []


def test_a_larger_synthetic_dataset_adds_files(tiny: TinyWorld, run: str, tmp_path: Path) -> None:
    url, out = str(tmp_path / "set"), tmp_path / "out"
    generate_here(Recipe.load(tiny.recipe, ["synthesis.images_per_class=1"]), url)
    assert teach_here(run, url, str(out)).images == 6
    first = files(out)
    generate_here(Recipe.load(tiny.recipe, ["synthesis.images_per_class=3"]), url)
    assert teach_here(run, url, str(out)).images == 18
    assert [shard.images for shard in read_teacher(str(out)).shards] == [6, 6, 6]
    assert first.items() - files(out).items() == {(TEACHER, first[TEACHER])}


def test_an_unreadable_image_has_zeros(
    tiny_set: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = soft_labels.decode_image

    def fail_at_4(data: bytes, name: str) -> Any:
        if name.endswith("000000004.jpg"):
            raise UnreadableImageError(name, "broken")
        return decode(data, name)

    monkeypatch.setattr(soft_labels, "decode_image", fail_at_4)
    assert teach_here(run, tiny_set, str(tmp_path), batch=4).unread == 1
    assert probabilities(tmp_path).sum(axis=1).tolist() == pytest.approx([1, 1, 1, 1, 0, 1])


def test_a_folder_contains_the_files_of_one_teacher(run: str, other: str, tiny_set: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    teach_here(run, tiny_set, out)
    with pytest.raises(UserError, match=r"out/00000\.json: .* computed with a different run, .*; choose a different"):
        teach_here(other, tiny_set, out)


def test_a_teacher_with_other_classes_is_an_error(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    run = zero_shot(tiny.recipe, tmp_path / "run", f"dataset.name={folder_of_folders(tmp_path / 'other')}")
    with pytest.raises(UserError, match=r"the teacher's \d+ classes differ from the 6 classes of"):
        teach_here(run, tiny_set, str(tmp_path / "out"))


def test_a_damaged_or_missing_shard_is_an_error(run: str, tiny_set: str, tmp_path: Path) -> None:
    url = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    data = bytearray((url / "00001.tar").read_bytes())
    data[3000] ^= 1
    (url / "00001.tar").write_bytes(data)
    with pytest.raises(UserError, match=r"00001\.tar could not be .*does not match its commit marker"):
        teach_here(run, str(url), str(tmp_path / "out"))
    (url / "00001.tar").unlink()
    with pytest.raises(UserError, match="1 of 2 shards are missing"):
        teach_here(run, str(url), str(tmp_path / "out"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("ray_cluster")
def test_two_actors_one_of_them_killed_write_the_bytes_of_one(
    run: str, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(shutil.copytree(tiny_set, tmp_path / "set"))
    done = teach_here(run, url, batch=4)
    expected = Path(url) / "teachers" / json.loads((Path(run) / "run.json").read_text())["name"]
    assert done == Passed(str(expected), 2, 12, 0)
    monkeypatch.setattr("syncclip.inference.soft_labels.ShardTeacher", DiesOnce)
    write_soft_labels(run, url, str(tmp_path / "two"), batch=4, pool=Pool(2))
    (tmp_path / "two" / "died").unlink()
    assert files(tmp_path / "two") == files(expected)
