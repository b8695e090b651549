"""Methods with a teacher: training, resumption after a kill, evaluation, export, and errors of the teacher's files."""

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
    """Soft labels of a zero-shot CLIP whose width differs from the student's."""
    folder = tmp_path_factory.mktemp("teacher")
    clip = make_clip_folder(folder / "clip", dim=40)
    run = zero_shot(tiny.recipe, folder / "run", f"backbone.name={clip}")
    return teach_here(run, tiny_set, str(folder / "files")).url


def recipe(tiny: TinyWorld, synthetic: str, teacher: str | None, *values: str) -> Recipe:
    options = [] if teacher is None else [f"training.teacher={teacher}"]
    return Recipe.load(tiny.recipe, [f"training.synthetic={synthetic}", *options, *values])


@pytest.mark.parametrize("values", [(*PROMPTKD, "training.data=synthetic"), PROMPTKD, DISTILLED], ids=str)
def test_a_method_with_a_teacher_trains_and_classifies(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path, values: tuple[str, ...]
) -> None:
    moved = shutil.copytree(teacher, tmp_path / "files")
    run = jobs.run_here(recipe(tiny, tiny_set, str(moved), *values), str(tmp_path / "run"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["distillation"] > 0 for line in lines)
    shutil.rmtree(moved)  # a finished run needs no teacher
    assert jobs.evaluate(run.url) == run
    model, predictions = load(run.url), Predictions.read(str(tmp_path / "run" / PREDICTIONS))
    images = jobs.load_dataset(Recipe.load(tiny.recipe).dataset).split("test")
    labels = model.classify([images.image(row) for row in range(len(images))], top=1)
    assert [model.classes.index(best.name) for (best,) in labels] == predictions.all_classes_prediction.tolist()
    probabilities = [best.probability for (best,) in labels]
    np.testing.assert_allclose(probabilities, predictions.all_classes_confidence, rtol=0, atol=1e-6)


def test_a_promptkd_run_contains_the_teachers_vectors_and_trained_statistics(
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
    with pytest.raises(UserError, match="learned class-specific parameters"):
        model.with_classes(["cat", "dog"])
    program = torch.export.load(export(model, "torch", str(tmp_path / "torch"))).module()
    images = torch.randn(4, 3, 32, 32)
    np.testing.assert_allclose(
        program(images).softmax(1).detach().numpy(), model.batch_probabilities(images), atol=1e-6
    )
    for kind in ("open_clip", "transformers"):
        with pytest.raises(UserError, match="the image tower has learned prompts"):
            export(model, kind, str(tmp_path / kind))


@pytest.mark.parametrize("values", [PROMPTKD, DISTILLED], ids=str)
@pytest.mark.parametrize("loaders", [0, 1])
def test_a_resumed_training_is_bitwise_identical(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path, values: tuple[str, ...], loaders: int
) -> None:
    jobs.run_here(recipe(tiny, tiny_set, teacher, *values), str(tmp_path / "a"))
    jobs.run_here(recipe(tiny, tiny_set, teacher, *values, f"training.loader_processes={loaders}"), str(tmp_path / "b"))
    (tmp_path / "b" / "prompts.safetensors").unlink()  # as after a kill later than the newest checkpoint
    jobs.run_here(recipe(tiny, tiny_set, teacher, *values, f"training.loader_processes={loaders}"), str(tmp_path / "b"))
    assert fakes.bits(tmp_path / "a") == fakes.bits(tmp_path / "b")


KILLED = """
import os, signal, sys
from syncclip import jobs
from syncclip.recipe.recipe import Recipe
from syncclip.training import recorder
log = recorder.RunRecorder.log
def die(self, step, *rest):
    log(self, step, *rest)
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
recorder.RunRecorder.log = die
jobs.run_here(Recipe.load(sys.argv[1], sys.argv[3:]), sys.argv[2])
"""


@pytest.mark.fault
def test_a_killed_training_resumes_to_the_same_bits(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path
) -> None:
    values = [f"training.synthetic={tiny_set}", f"training.teacher={teacher}", *PROMPTKD]
    jobs.run_here(Recipe.load(tiny.recipe, values), str(tmp_path / "unbroken"))
    arguments = [tiny.recipe, str(tmp_path / "killed"), *values]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "prompts.safetensors").exists()
    jobs.run_here(Recipe.load(tiny.recipe, values), str(tmp_path / "killed"))
    assert fakes.bits(tmp_path / "killed") == fakes.bits(tmp_path / "unbroken")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ray_train_equals_one_process(tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path) -> None:
    jobs.train(recipe(tiny, tiny_set, teacher, *PROMPTKD), str(tmp_path / "ray"))
    jobs.run_here(recipe(tiny, tiny_set, teacher, *PROMPTKD), str(tmp_path / "here"))
    assert fakes.bits(tmp_path / "ray") == fakes.bits(tmp_path / "here")


def test_the_hash_of_a_run_depends_on_the_teacher_and_not_on_its_path(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path
) -> None:
    moved = str(shutil.copytree(teacher, tmp_path / "moved"))
    other = zero_shot(tiny.recipe, tmp_path / "run", "methods.zeroshot.templates=['a {}.']")
    others = teach_here(other, tiny_set, str(tmp_path / "others")).url

    def hash_of(teacher: str | None, *values: str) -> str:
        return resolve.resolve_run(recipe(tiny, tiny_set, teacher, *values))[1].recipe_hash

    for values in (PROMPTKD, DISTILLED):
        assert hash_of(teacher, *values) == hash_of(moved, *values) != hash_of(others, *values)
    plain = "training.method=syncclip"
    assert hash_of(teacher, plain) == hash_of(None, plain) != hash_of(teacher, *DISTILLED)
    assert hash_of(teacher, *DISTILLED, "training.data=real") == hash_of(None, *DISTILLED, "training.data=real")


def test_a_missing_teacher_and_real_images_only_are_errors(tiny: TinyWorld, tiny_set: str, teacher: str) -> None:
    for values in (PROMPTKD, DISTILLED):
        with pytest.raises(UserError, match=r"training\.teacher: '\w+' requires a teacher"):
            recipe(tiny, tiny_set, None, *values)
    with pytest.raises(UserError, match="'promptkd' cannot train on 'real'"):
        recipe(tiny, tiny_set, teacher, *PROMPTKD, "training.data=real")


def test_files_that_do_not_match_the_set_are_errors(
    tiny: TinyWorld, tiny_set: str, teacher: str, tmp_path: Path
) -> None:
    def check(error: str, synthetic: str, folder: object, *values: str) -> None:
        with pytest.raises(UserError, match=error):
            resolve.resolve_run(recipe(tiny, synthetic, str(folder), *PROMPTKD, *values))

    check("gone: the teacher files are missing", tiny_set, tmp_path / "gone")
    file = json.loads((Path(teacher) / TEACHER).read_text())
    file.pop("checksum")
    cases = {
        r"the teacher's 6 classes differ from the 6 classes of": {"classnames": [*"abcdef"]},
        r"for 1 of 2 shards are missing \(00001\.tar\); run `syncclip teacher": {"shards": file["shards"][:1]},
        r"for 1 of 2 shards belong to other images \(00000\.tar\); run": {
            "shards": [[*file["shards"][0][:4], "0" * 64], file["shards"][1]]
        },
    }
    for number, (error, change) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        storage.write_with_checksum(str(folder / TEACHER), json.dumps({**file, **change}).encode())
        check(error, tiny_set, folder)
    check(r"promptkd\.teacher_dim is 9, but .* have 40 dimensions", tiny_set, teacher, "methods.promptkd.teacher_dim=9")
    storage.write_with_checksum(str(tmp_path / "0" / TEACHER), b'{"format": 2}')
    check(r"teacher\.json cannot be read by this version", tiny_set, tmp_path / "0")
    both = f"[{tiny_set}, {shutil.copytree(tiny_set, tmp_path / 'set')}]"
    check(r"requires a single synthetic dataset, but training\.synthetic is a list", both, teacher)


def test_fewer_images_require_soft_labels_of_their_shards_only(
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
