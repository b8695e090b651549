"""`syncclip datasets`, `shards pack` and `init`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.recipe.recipe import Recipe
from tests.cli.test_app import Outcome
from tests.worlds.dataset import CLASSES, folder_of_folders
from tests.worlds.literature import Miniatures
from tests.worlds.webdataset import samples, tar


def test_benchmark_datasets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "datasets", "ls")
    assert "Bundled datasets: icons/devices, " in outcome.out
    assert outcome.status == 0
    assert "imagenet_sketch" in outcome.out and "CC BY-SA 4.0" in outcome.out and "DATASETS.md" in outcome.out
    assert "page of imagenet_r: https://github.com/hendrycks/imagenet-r\n" in outcome.out
    assert "page of eurosat" not in outcome.out


def test_a_check_reports_counts_and_problems(
    capsys: pytest.CaptureFixture[str], miniatures: Miniatures, tmp_path: Path
) -> None:
    outcome = Outcome(capsys, "datasets", "check", "all", "--root", str(miniatures.root))
    assert outcome.status == 1 and all(f"\n{name}: " in outcome.out for name in miniatures.of)
    assert "3 of 47" in outcome.out and "dtd: test: 12 found, 1,692 expected" in outcome.out
    valid = Outcome(capsys, "datasets", "check", str(folder_of_folders(tmp_path / "mine")), "--images")
    assert valid.status == 0 and "│ OK    │" in valid.out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["check", "dtdd"], "unknown dataset 'dtdd'; did you mean 'dtd'?"),
        (["check", "icons/travle"], "unknown bundled dataset 'icons/travle'; available: icons/devices"),
        (["check", "icons/travel/x"], "unknown bundled dataset 'icons/travel/x'; available: icons/devices"),
        (["check", "dtd"], "specify the folder with --root DIR"),
        (["check", "all", "--root", "missing"], "missing: dataset folder not found; see CoOp's"),
        (["ls", "--root", "missing"], "missing: dataset folder not found; see CoOp's"),
    ],
)
def test_a_missing_dataset_is_an_error(capsys: pytest.CaptureFixture[str], arguments: list[str], error: str) -> None:
    assert error in Outcome(capsys, "datasets", *arguments).error


def test_a_dataset_is_packed(capsys: pytest.CaptureFixture[str], miniatures: Miniatures, tmp_path: Path) -> None:
    arguments = ["--root", str(miniatures.root), "--out", str(tmp_path / "dtd"), "--shots", "1,2", "--seeds", "1"]
    outcome = Outcome(capsys, "shards", "pack", "dtd", *arguments)
    assert outcome.status == 0 and "12 test images" in outcome.out
    assert load_dataset(DatasetSettings(name="dtd", root=str(tmp_path))).template == "{} texture."
    assert Outcome(capsys, "shards", "verify", str(tmp_path / "dtd" / "test")).status == 0


def test_a_dataset_is_packed_by_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = str(folder_of_folders(tmp_path / "mine", per_class=4))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"dataset: {{name: {folder}, resize: 16}}\nstorage: {{root: {tmp_path / 'runs'}}}\n")
    assert Outcome(capsys, "shards", "pack", str(recipe)).status == 0
    packed = load_dataset(DatasetSettings(name=str(tmp_path / "runs" / "packed" / "mine")))
    assert packed.split("test").image(0).size == (16, 16)
    for option, value, error in (
        ("--shots", "few", "--shots: 'few' is not a list of integers"),
        ("--shots", "0", "select no images"),
        ("--resize", "0", "dataset.resize"),
    ):
        assert error in Outcome(capsys, "shards", "pack", folder, option, value).error


@pytest.mark.parametrize("models", [[], ["--photographs"]])
def test_a_first_recipe_loads_the_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of_folders(tmp_path / "my images: 1", per_class=6)
    assert Outcome(capsys, "init", "my images: 1", *models).status == 0
    (written,) = tmp_path.glob("*.yaml")
    recipe = Recipe.load(str(written))
    assert recipe.dataset.shots == 3
    assert len(load_dataset(recipe.dataset).classnames) == 6
    assert (recipe.backbone.name == "icons") == (not models)
    # Novel classes may have no real training images.
    assert all(configuration.data != "all_real" for configuration in recipe.study.configurations)
    assert "6 classes x 16 images = 96 images" in Outcome(capsys, "plan", str(written)).out
    assert "already exists" in Outcome(capsys, "init", "my images: 1", *models).error


def test_overrides_complete_a_first_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tar(tmp_path / "mine" / "0.tar", samples())
    out = str(tmp_path / "first.yaml")
    assert (
        "labels are numbers without class names" in Outcome(capsys, "init", str(tmp_path / "mine"), "--out", out).error
    )
    values = {"classnames": [f"{name}: #1" for name in CLASSES], "base": ["red circle: #1"], "split_seed": 3}
    values |= {"template": "the {}"}
    overrides = [f"dataset.{key}={value if key == 'template' else json.dumps(value)}" for key, value in values.items()]
    assert Outcome(capsys, "init", str(tmp_path / "mine"), *overrides, "--out", out).status == 0
    written = Recipe.load(out).dataset
    assert written.model_dump(include=set(values)) == values
    assert load_dataset(written).classnames[0] == "red circle: #1"
    assert "only accepts settings in the `dataset`" in Outcome(capsys, "init", "icons", "training.epochs=1").error


def test_class_names_too_long_for_the_embedded_clip_are_errors(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, out = folder_of_folders(tmp_path / "mine", per_class=3), str(tmp_path / "first.yaml")
    (folder / "red_circle").rename(folder / "_".join(["antidisestablishmentarianism"] * 3))
    error = Outcome(capsys, "init", str(folder), "--out", out).error
    assert "exceeds the CLIP context length of 16 tokens" in error and "--photographs for a CLIP" in error
    assert Outcome(capsys, "init", str(folder), "--out", out, "--photographs").status == 0


def test_invalid_data_gets_no_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for file in (folder_of_folders(tmp_path / "broken", per_class=3) / "red_circle").iterdir():
        file.write_bytes(b"broken")
    for name, error in (
        ("missing", "does not exist"),
        ("empty", "no class folders"),
        ("broken", "unreadable image: not a JPEG, PNG"),
    ):
        assert error in Outcome(capsys, "init", str(tmp_path / name), "--out", str(tmp_path / "r.yaml")).error
        assert not (tmp_path / "r.yaml").exists()


def test_skipped_files_are_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    for name in ("a.heic", "b.heic", "c.txt"):
        (next(path for path in folder.iterdir() if path.is_dir()) / name).write_text("no image")
    name = next(path.name for path in folder.iterdir() if path.is_dir())
    summary = f"skipped 3 files: 2 .heic ({name}/a.heic, {name}/b.heic), 1 .txt ({name}/c.txt); images must be JPEG, "
    checked = Outcome(capsys, "datasets", "check", str(folder))
    assert checked.status == 0 and f"{folder}: {summary}" in checked.out
    first = Outcome(capsys, "init", str(folder), "--out", str(tmp_path / "first.yaml"))
    assert first.status == 0 and f"init: {summary}" in first.err


def test_warnings_are_reported_and_are_no_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", splits={"train": 4, "val": 1, "test": 2})
    shutil.copy(next((folder / "train" / "red_circle").iterdir()), folder / "test" / "red_circle" / "copy.png")
    (folder / "train" / "red_circle" / "late.png").write_bytes(b"broken")
    for outcome, prefix in (
        (Outcome(capsys, "datasets", "check", str(folder)), f"{folder}: "),
        (Outcome(capsys, "init", str(folder), "--out", str(tmp_path / "first.yaml")), "init: "),
    ):
        lines = (outcome.out + outcome.err).splitlines()
        assert sum(line.startswith(f"{prefix}warning: test: only 13 images") for line in lines) == 1
        assert sum(line.startswith(f"{prefix}warning: 1 image is in more than one split: ") for line in lines) == 1
        assert sum(line.startswith(f"{prefix}power: with 3 novel classes, 5 seeds") for line in lines) == 1
        assert sum("train: 1 of 25 checked images cannot be read" in line for line in lines) == 1
        assert outcome.status == (1 if prefix != "init: " else 0)
