"""Methods that learn from a teacher, the whole way: its files, a training through a kill, evaluation, use."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from syncclip import jobs, storage
from syncclip.core.settings import UserError
from syncclip.evaluation.predict import PREDICTIONS, Predictions
from syncclip.export.formats import export
from syncclip.inference.model import load
from syncclip.methods.promptkd import PromptKd
from syncclip.recipe.recipe import Recipe
from syncclip.runs import resolve
from syncclip.stream.teacher import TEACHER
from tests.conftest import TinyWorld
from tests.training import fakes
from tests.worlds.clip import make_clip_folder
from tests.worlds.teacher import teach_here, zero_shot

PROMPTKD = ("training.method=promptkd",)
DISTILLED = ("training.method=syncclip", "methods.syncclip.distillation_weight=0.5", "methods.syncclip.temperature=2")


@pytest.fixture(scope="module")
def teacher(tiny: TinyWorld, tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The files of a zero-shot CLIP of another width than the student's."""
    folder = tmp_path_factory.mktemp("teacher")
    clip = make_clip_folder(folder / "clip", dim=40)
    run = zero_shot(tiny.recipe, folder / "run", f"backbone.name={clip}")
    return teach_here(run, tiny_set, str(folder / "files")).url


def recipe(tiny: TinyWorld, synthetic: str, teacher: str | None, *values: str) -> Recipe:
    named = [] if teacher is None else [f"training.teacher={teacher}"]
    return Recipe.load(tiny.recipe, [f"training.synthetic={synthetic}", *named, *values])


@pytest.mark.parametrize("values", [(*PROMPTKD, "training.data=synthetic"), PROMPTKD, DISTILLED], ids=str)
def test_a_taught_method_goes_the_whole_way(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path, values: tuple[str, ...]
) -> None:
    moved = shutil.copytree(teacher, tmp_path / "files")
    run = jobs.run_here(recipe(tiny, tiny_set, str(moved), *values), str(tmp_path / "run"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["distillation"] > 0 for line in lines)
    shutil.rmtree(moved)  # a finished run needs no teacher
    assert jobs.evaluate(run.url) == run
    model, said = load(run.url), Predictions.read(str(tmp_path / "run" / PREDICTIONS))
    images = jobs.load_dataset(Recipe.load(tiny.recipe).dataset).split("test")
    found = model.classify([images.image(row) for row in range(len(images))], top=1)
    assert [model.classes.index(best.name) for (best,) in found] == said.all_classes_prediction.tolist()
    np.testing.assert_allclose([best.probability for (best,) in found], said.all_classes_confidence, rtol=0, atol=1e-6)


def test_what_promptkd_learned_holds_the_teachers_vectors_and_moved_statistics(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path
) -> None:
    run = jobs.run_here(recipe(tiny, tiny_set, teacher, *PROMPTKD), str(tmp_path))
    saved = safetensors.torch.load_file(tmp_path / "prompts.safetensors")
    vectors = safetensors.torch.load_file(Path(teacher) / "class_vectors.safetensors")["class_vectors"]
    assert torch.equal(saved["class_vectors"], vectors) and vectors.shape == (6, 40)
    assert saved["running_mean"].any() and (saved["running_var"] != 1).any()
    assert Recipe.load(str(tmp_path / "recipe.yaml")).methods.promptkd.teacher_dim == 40
    model = load(run.url)
    assert isinstance(model.method, PromptKd)
    with pytest.raises(UserError, match=r"'promptkd' learned class-specific parameters .*not transfer to other class"):
        model.with_classes(["cat", "dog"])
    program = torch.export.load(export(model, "torch", str(tmp_path / "torch"))).module()
    images = torch.randn(4, 3, 32, 32)
    np.testing.assert_allclose(
        program(images).softmax(1).detach().numpy(), model.batch_probabilities(images), atol=1e-6
    )
    for kind in ("open_clip", "transformers"):
        with pytest.raises(UserError, match=rf"--to {kind}: the image tower has learned prompts or weights"):
            export(model, kind, str(tmp_path / kind))


@pytest.mark.parametrize("values", [PROMPTKD, DISTILLED], ids=str)
@pytest.mark.parametrize("loaders", [0, 1])
def test_a_training_is_the_same_bit_for_bit(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path, values: tuple[str, ...], loaders: int
) -> None:
    jobs.run_here(recipe(tiny, tiny_set, teacher, *values), str(tmp_path / "a"))
    jobs.run_here(recipe(tiny, tiny_set, teacher, *values, f"training.loader_processes={loaders}"), str(tmp_path / "b"))
    (tmp_path / "b" / "prompts.safetensors").unlink()  # as after a kill behind its newest checkpoint
    jobs.run_here(recipe(tiny, tiny_set, teacher, *values, f"training.loader_processes={loaders}"), str(tmp_path / "b"))
    assert fakes.bits(tmp_path / "a") == fakes.bits(tmp_path / "b")


KILLED = """
import os, signal, sys
from syncclip import jobs
from syncclip.recipe.recipe import Recipe
from syncclip.training import recorder
right = recorder.RunRecorder.log
def die(self, step, *rest):
    right(self, step, *rest)
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
recorder.RunRecorder.log = die
jobs.run_here(Recipe.load(sys.argv[1], sys.argv[3:]), sys.argv[2])
"""


@pytest.mark.fault
def test_a_killed_training_goes_on_to_the_same_bits(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path
) -> None:
    values = [f"training.synthetic={tiny_set}", f"training.teacher={teacher}", *PROMPTKD]
    jobs.run_here(Recipe.load(tiny.recipe, values), str(tmp_path / "whole"))
    arguments = [tiny.recipe, str(tmp_path / "killed"), *values]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "prompts.safetensors").exists()
    jobs.run_here(Recipe.load(tiny.recipe, values), str(tmp_path / "killed"))
    assert fakes.bits(tmp_path / "killed") == fakes.bits(tmp_path / "whole")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ray_train_learns_what_one_process_learns(tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path) -> None:
    jobs.train(recipe(tiny, tiny_set, teacher, *PROMPTKD), str(tmp_path / "ray"))
    jobs.run_here(recipe(tiny, tiny_set, teacher, *PROMPTKD), str(tmp_path / "here"))
    assert fakes.bits(tmp_path / "ray") == fakes.bits(tmp_path / "here")


def test_the_hash_of_a_run_follows_its_teacher_not_where_the_files_lie(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path
) -> None:
    moved = str(shutil.copytree(teacher, tmp_path / "moved"))
    other = zero_shot(tiny.recipe, tmp_path / "run", "methods.zeroshot.templates=['a {}.']")
    others = teach_here(other, tiny_set, str(tmp_path / "others")).url

    def hashed(place: str | None, *values: str) -> str:
        return resolve.resolve_run(recipe(tiny, tiny_set, place, *values))[1].recipe_hash

    for values in (PROMPTKD, DISTILLED):
        assert hashed(teacher, *values) == hashed(moved, *values) != hashed(others, *values)
    plain = "training.method=syncclip"
    assert hashed(teacher, plain) == hashed(None, plain) != hashed(teacher, *DISTILLED)
    assert hashed(teacher, *DISTILLED, "training.data=real") == hashed(None, *DISTILLED, "training.data=real")


@pytest.mark.parametrize("values", [PROMPTKD, DISTILLED], ids=str)
def test_a_method_that_needs_a_teacher_is_refused_without_one(
    tiny: TinyWorld, tiny_set: str, values: tuple[str, ...]
) -> None:
    with pytest.raises(UserError, match=r"training\.teacher: '\w+' requires a teacher; create it with `syncc"):
        recipe(tiny, tiny_set, None, *values)


def test_promptkd_can_not_learn_from_real_images_alone(tiny: TinyWorld, tiny_set: str, teacher: str) -> None:
    with pytest.raises(UserError, match=r"'promptkd' cannot train on 'real'; use 'synthetic' or 'both'"):
        recipe(tiny, tiny_set, teacher, *PROMPTKD, "training.data=real")


def test_files_that_do_not_fit_the_set_are_refused(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path
) -> None:
    def refused(told: str, synthetic: str, place: object, *values: str) -> None:
        with pytest.raises(UserError, match=told):
            resolve.resolve_run(recipe(tiny, synthetic, str(place), *PROMPTKD, *values))

    refused(r"gone: the teacher files are missing", tiny_set, tmp_path / "gone")
    file = json.loads((Path(teacher) / TEACHER).read_text())
    file.pop("checksum")
    cases = {
        r"the teacher's 6 classes are not the 6 of": {"classnames": [*"abcdef"]},
        r"of 1 of 2 shards are missing \(00001\.tar\); run `syncclip teacher": {"shards": file["shards"][:1]},
        r"of 1 of 2 shards are for other images \(00000\.tar\); run": {
            "shards": [[*file["shards"][0][:4], "0" * 64], file["shards"][1]]
        },
    }
    for number, (told, change) in enumerate(cases.items()):
        place = tmp_path / str(number)
        place.mkdir()
        storage.write_with_checksum(str(place / TEACHER), json.dumps({**file, **change}).encode())
        refused(told, tiny_set, place)
    refused(
        r"promptkd\.teacher_dim: .* have dimension 40",
        tiny_set,
        teacher,
        "methods.promptkd.teacher_dim=9",
    )
    storage.write_with_checksum(str(tmp_path / "0" / TEACHER), b'{"format": 2}')
    refused(
        r"teacher\.json cannot be read by this version .*; remove it, and run the `syncclip", tiny_set, tmp_path / "0"
    )
    both = f"[{tiny_set}, {shutil.copytree(tiny_set, tmp_path / 'set')}]"
    refused(r"requires a single synthetic set, but training\.synthetic is a list", both, teacher)


def test_fewer_images_need_the_probabilities_of_their_shards_alone(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path
) -> None:
    file = json.loads((Path(teacher) / TEACHER).read_text())
    file.pop("checksum")
    half = Path(shutil.copytree(teacher, tmp_path / "half"))
    storage.write_with_checksum(str(half / TEACHER), json.dumps({**file, "shards": file["shards"][:1]}).encode())
    run = jobs.run_here(
        recipe(tiny, tiny_set, str(half), *PROMPTKD, "training.images_per_class=1"), str(tmp_path / "run")
    )
    assert run.results["counts"]["all"] == 24
