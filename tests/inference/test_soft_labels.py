"""A teacher's files: the same bytes for any number of actors and after any kill; what is refused."""

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
import torch
from safetensors.numpy import load_file

from syncclip.core.settings import UserError
from syncclip.inference.model import load
from syncclip.inference.passes import Passed
from syncclip.inference.soft_labels import ShardTeacher, write_soft_labels
from syncclip.shards.cache import ShardCache
from syncclip.shards.reader import ShardSet
from syncclip.stream.teacher import TEACHER, VECTORS, Teacher, read_teacher
from syncclip.verify import verify
from syncclip.workers.job import Computation
from syncclip.workers.settings import Pool
from tests.conftest import TinyWorld
from tests.worlds.synthetic import generate_here
from tests.worlds.teacher import teach_here, zero_shot


@pytest.fixture(scope="module")
def run(tiny: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> str:
    return zero_shot(tiny.recipe, tmp_path_factory.mktemp("teacher"))


class DiesOnce(ShardTeacher):
    """Kills its process at the second shard, the first time."""

    def begin(self, shard: int) -> Computation[Any]:
        mark = Path(self.job.out) / "died"
        if shard == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().begin(shard)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_the_files_hold_what_the_model_says_of_each_image_in_the_order_of_the_table(
    run: str, tiny_set: str, tmp_path: Path
) -> None:
    done = teach_here(run, tiny_set, str(tmp_path))
    assert done == Passed(str(tmp_path), 2, 12, 0)
    model, images, told = load(run), ShardSet(tiny_set), read_teacher(str(tmp_path))
    assert told.classnames == tuple(model.classes) and told.dim == model.text_features().shape[1]
    np.testing.assert_array_equal(load_file(tmp_path / VECTORS)["class_vectors"], model.text_features())
    found = [load_file(tmp_path / f"0000{shard}.safetensors")["probabilities"] for shard in range(2)]
    places = images.samples.at(np.arange(12))
    for row, (shard, place) in enumerate(zip(places.shard, places.place, strict=True)):
        assert found[shard].dtype == np.float32
        np.testing.assert_allclose(found[shard][place], model.probabilities([images.image(row)])[0], atol=1e-6)


def test_a_teacher_with_learned_prompts_says_what_these_make_it_say(
    tiny: TinyWorld, tiny_set: str, run: str, tmp_path: Path
) -> None:
    from syncclip import jobs
    from syncclip.recipe.recipe import Recipe

    values = ["training.method=ivlp", f"training.synthetic={tiny_set}", "methods.ivlp.learning_rate=1"]
    prompted = jobs.run_here(Recipe.load(tiny.recipe, values), str(tmp_path / "run")).url
    teach_here(prompted, tiny_set, str(tmp_path / "prompted"))
    teach_here(run, tiny_set, str(tmp_path / "plain"))
    found = load_file(tmp_path / "prompted" / "00000.safetensors")["probabilities"]
    images = [ShardSet(tiny_set).image(row) for row in range(6)]
    np.testing.assert_allclose(found, load(prompted).probabilities(images), atol=1e-6)
    assert np.abs(found - load_file(tmp_path / "plain" / "00000.safetensors")["probabilities"]).max() > 1e-3


def test_what_is_there_is_not_made_again_and_what_is_missing_gives_the_same_bytes(
    run: str, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = teach_here(run, tiny_set, str(tmp_path))
    whole, made, right = files(tmp_path), [], ShardTeacher.compute
    monkeypatch.setattr(ShardTeacher, "compute", lambda s, name: made.append(name) or right(s, name))
    assert teach_here(run, tiny_set, str(tmp_path)) == done and made == []
    for gone in (["00001.json"], ["00001.safetensors", TEACHER], [VECTORS, TEACHER]):  # as kills leave it
        for name in gone:
            (tmp_path / name).unlink()
        assert teach_here(run, tiny_set, str(tmp_path)) == done and files(tmp_path) == whole
    assert made == ["00001.tar", "00001.tar"]


@pytest.mark.fault
@pytest.mark.parametrize("spoil", [Path.unlink, lambda file: file.write_bytes(b"?")], ids=["removed", "damaged"])
def test_class_vectors_that_are_spoilt_are_written_again(
    run: str, tiny_set: str, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    teach_here(run, tiny_set, str(tmp_path))
    before = files(tmp_path)
    spoil(tmp_path / VECTORS)
    with pytest.raises(UserError, match=rf"{VECTORS}: missing or damaged"):
        Teacher(str(tmp_path), ShardCache()).class_vectors()
    teach_here(run, tiny_set, str(tmp_path))
    assert files(tmp_path) == before


def flip(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 4
    (folder / name).write_bytes(data)


@pytest.mark.fault
@pytest.mark.parametrize("name", ["00000.safetensors", "00000.json", VECTORS, TEACHER])
@pytest.mark.parametrize("damage", ["flipped", "emptied", "removed", "exchanged"])
def test_verify_reports_a_damaged_file_and_teach_writes_it_again(
    tiny: TinyWorld, run: str, tiny_set: str, tmp_path: Path, name: str, damage: str
) -> None:
    out = tmp_path / "out"
    teach_here(run, tiny_set, str(out))
    before = files(out)
    assert verify(str(out), lambda _: None).problems == []
    if damage == "flipped":
        flip(out, name)
    elif damage == "emptied":
        (out / name).write_bytes(b"")
    elif damage == "removed":
        (out / name).unlink()
    elif name.startswith("0"):
        shutil.copy(out / name.replace("00000", "00001"), out / name)
    else:  # the same file of another teacher
        other = zero_shot(tiny.recipe, tmp_path / "run", "methods.zeroshot.templates=['a {}.']")
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


def test_a_set_that_has_grown_is_gone_on_with(tiny: TinyWorld, run: str, tmp_path: Path) -> None:
    from syncclip.recipe.recipe import Recipe

    url, out = str(tmp_path / "set"), str(tmp_path / "out")
    generate_here(Recipe.load(tiny.recipe, ["synthesis.images_per_class=1"]), url)
    assert teach_here(run, url, out).images == 6
    first = files(tmp_path / "out")
    generate_here(Recipe.load(tiny.recipe, ["synthesis.images_per_class=3"]), url)
    assert teach_here(run, url, out).images == 18
    assert [one.images for one in read_teacher(out).shards] == [6, 6, 6]
    assert first.items() - files(tmp_path / "out").items() == {(TEACHER, first[TEACHER])}


def test_an_image_that_can_not_be_read_has_zeros(tiny_set: str, run: str, tmp_path: Path) -> None:
    import syncclip.inference.soft_labels as module
    from syncclip.shards.images import UnreadableImageError

    right = module.decode_image

    def broken(data: bytes, name: str) -> Any:
        if name.endswith("000000004.jpg"):
            raise UnreadableImageError(name, "broken")
        return right(data, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "decode_image", broken)
        assert teach_here(run, tiny_set, str(tmp_path), batch=4).unread == 1
    found = load_file(tmp_path / "00000.safetensors")["probabilities"]
    assert found.sum(axis=1).tolist() == pytest.approx([1, 1, 1, 1, 0, 1])


def test_another_teacher_in_the_same_folder_is_refused(
    tiny: TinyWorld, tiny_set: str, run: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    teach_here(run, tiny_set, str(out))
    other = zero_shot(tiny.recipe, tmp_path / "run", "methods.zeroshot.templates=['a {}.']")
    with pytest.raises(UserError, match=r"out/00000\.json: these predictions are of another run, .*; choose another"):
        teach_here(other, tiny_set, str(out))


def test_a_teacher_of_other_classes_is_refused(tiny: TinyWorld, tiny_set: str, tmp_path: Path) -> None:
    from tests.worlds.dataset import folder_of_folders

    other = zero_shot(tiny.recipe, tmp_path / "run", f"dataset.name={folder_of_folders(tmp_path / 'other')}")
    with pytest.raises(UserError, match=r"the \d+ classes of this teacher are not the 6 of"):
        teach_here(other, tiny_set, str(tmp_path / "out"))


def test_a_damaged_tar_and_an_unfinished_set_are_refused(run: str, tiny_set: str, tmp_path: Path) -> None:
    url = Path(shutil.copytree(tiny_set, tmp_path / "set"))
    data = bytearray((url / "00001.tar").read_bytes())
    data[3000] ^= 1
    (url / "00001.tar").write_bytes(data)
    with pytest.raises(UserError, match=r"00001\.tar could not be read by the teacher: .*bytes do not match"):
        teach_here(run, str(url), str(tmp_path / "out"))
    (url / "00001.tar").unlink()
    with pytest.raises(UserError, match=r"1 of 2 shards are missing"):
        teach_here(run, str(url), str(tmp_path / "out"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("ray_cluster")
def test_any_number_of_actors_and_a_killed_one_write_the_same_bytes(
    run: str, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(shutil.copytree(tiny_set, tmp_path / "set"))
    done = write_soft_labels(run, url, batch=4)
    one = Path(url) / "teachers" / json.loads((Path(run) / "run.json").read_text())["name"]
    assert done == Passed(str(one), 2, 12, 0)
    monkeypatch.setattr("syncclip.inference.soft_labels.ShardTeacher", DiesOnce)
    write_soft_labels(run, url, str(tmp_path / "two"), batch=4, pool=Pool(2))
    (tmp_path / "two" / "died").unlink()
    assert files(tmp_path / "two") == files(one)
    assert torch.equal(torch.tensor(ShardSet(url).labels), torch.tensor(ShardSet(tiny_set).labels))
