"""`syncclip datasets`, `shards pack` and `init` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.recipe.recipe import Recipe
from tests.cli.test_app import Outcome
from tests.worlds.dataset import CLASSES, folder_of_folders
from tests.worlds.literature import Miniatures
from tests.worlds.webdataset import samples, tar


def test_the_literature_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "datasets", "ls")
    assert outcome.status == 0
    assert "imagenet_sketch" in outcome.out and "CC BY-SA 4.0" in outcome.out and "DATASETS.md" in outcome.out
    assert "page of imagenet_r: https://github.com/hendrycks/imagenet-r\n" in outcome.out
    assert "page of eurosat" not in outcome.out, "its licence is known"


def test_a_check_tells_counts_and_what_is_wrong(capsys: pytest.CaptureFixture[str], miniatures: Miniatures) -> None:
    outcome = Outcome(capsys, "datasets", "check", "dtd", "--root", str(miniatures.root))
    assert outcome.status == 1
    assert "3 of 47" in outcome.out and "dtd: test: 12 found, 1,692 expected" in outcome.out


def test_all_are_checked_at_once(capsys: pytest.CaptureFixture[str], miniatures: Miniatures) -> None:
    outcome = Outcome(capsys, "datasets", "check", "all", "--root", str(miniatures.root))
    assert outcome.status == 1 and all(f"\n{name}: " in outcome.out for name in miniatures.of)


def test_sound_data_of_ones_own_is_told_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    outcome = Outcome(capsys, "datasets", "check", str(folder_of_folders(tmp_path / "mine")), "--images")
    assert outcome.status == 0 and "│ OK    │" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["check", "dtdd"], "unknown dataset 'dtdd'; did you mean 'dtd'?"),
        (
            ["check", "icons/food"],
            "unknown shipped dataset 'icons/food'; available are icons/devices, icons/",
        ),
        (["check", "icons/travle"], "unknown shipped dataset 'icons/travle'; available are icons/devices"),
        (
            ["check", "icons/travel/x"],
            "unknown shipped dataset 'icons/travel/x'; available are icons/devices",
        ),
        (["check", "dtd"], "set it with --root DIR"),
        (["check", "all", "--root", "nowhere"], "nowhere: dataset folder not found; see CoOp's"),
        (["ls", "--root", "nowhere"], "nowhere: dataset folder not found; see CoOp's"),
    ],
)
def test_nothing_to_be_looked_at_is_told(capsys: pytest.CaptureFixture[str], arguments: list[str], part: str) -> None:
    assert part in Outcome(capsys, "datasets", *arguments).refusal


def test_a_dataset_is_packed(capsys: pytest.CaptureFixture[str], miniatures: Miniatures, tmp_path: Path) -> None:
    arguments = ["--root", str(miniatures.root), "--out", str(tmp_path / "dtd"), "--shots", "1,2", "--seeds", "1"]
    outcome = Outcome(capsys, "shards", "pack", "dtd", *arguments)
    assert outcome.status == 0 and "12 test images" in outcome.out
    assert load_dataset(DatasetSettings(name="dtd", root=str(tmp_path))).template == "{} texture."
    assert Outcome(capsys, "shards", "verify", str(tmp_path / "dtd" / "test")).status == 0


def test_a_recipe_says_what_is_packed_and_how(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"dataset: {{name: {folder}, resize: 16}}\nstorage: {{root: {tmp_path / 'runs'}}}\n")
    assert Outcome(capsys, "shards", "pack", str(recipe)).status == 0
    packed = load_dataset(DatasetSettings(name=str(tmp_path / "runs" / "packed" / "mine")))
    assert packed.split("test").image(0).size == (16, 16)


def test_wrong_numbers_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = str(folder_of_folders(tmp_path / "mine", per_class=4))
    assert "--shots few: give whole numbers" in Outcome(capsys, "shards", "pack", folder, "--shots", "few").refusal
    assert "select no image" in Outcome(capsys, "shards", "pack", folder, "--shots", "0").refusal
    assert "dataset.resize" in Outcome(capsys, "shards", "pack", folder, "--resize", "0").refusal


@pytest.mark.parametrize("models", [[], ["--photographs"]])
def test_a_first_recipe_is_written_and_reads_the_data(
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
    # Novel classes may have no real image to learn from.
    assert all(configuration.data != "all_real" for configuration in recipe.study.configurations)
    assert "exists already" in Outcome(capsys, "init", "my images: 1", *models).refusal


def test_a_first_recipe_takes_what_the_data_does_not_tell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tar(tmp_path / "mine" / "0.tar", samples())
    place = str(tmp_path / "first.yaml")
    assert "labels are numbers without names" in Outcome(capsys, "init", str(tmp_path / "mine"), "--out", place).refusal
    told = {"classnames": [f"{name}: #1" for name in CLASSES], "base": ["red circle: #1"], "split_seed": 3}
    told |= {"template": "the {}"}
    values = [f"dataset.{key}={value if key == 'template' else json.dumps(value)}" for key, value in told.items()]
    assert Outcome(capsys, "init", str(tmp_path / "mine"), *values, "--out", place).status == 0
    written = Recipe.load(place).dataset
    assert written.model_dump(include=set(told)) == told
    assert load_dataset(written).classnames[0] == "red circle: #1"
    assert "takes values of `dataset` only" in Outcome(capsys, "init", "icons", "training.epochs=1").refusal


def test_names_too_long_for_the_embedded_models_are_told_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, place = folder_of_folders(tmp_path / "mine", per_class=3), str(tmp_path / "first.yaml")
    (folder / "red_circle").rename(folder / "_".join(["antidisestablishmentarianism"] * 3))
    refusal = Outcome(capsys, "init", str(folder), "--out", place).refusal
    assert "does not fit the 16 tokens" in refusal and "--photographs for a CLIP" in refusal
    assert Outcome(capsys, "init", str(folder), "--out", place, "--photographs").status == 0


def test_what_a_first_recipe_describes_can_be_planned(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, place = folder_of_folders(tmp_path / "mine"), str(tmp_path / "first.yaml")
    assert Outcome(capsys, "init", str(folder), "--out", place).status == 0
    assert "6 classes x 16 images = 96 images" in Outcome(capsys, "plan", place).out


@pytest.mark.parametrize(("place", "part"), [("nowhere", "does not exist"), ("empty", "no class folders")])
def test_data_that_is_no_dataset_gets_no_recipe(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, place: str, part: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert part in Outcome(capsys, "init", str(tmp_path / place), "--out", str(tmp_path / "r.yaml")).refusal
    assert not (tmp_path / "r.yaml").exists()


def test_a_broken_image_stops_a_first_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=3)
    for file in (folder / "red_circle").iterdir():
        file.write_bytes(b"broken")
    outcome = Outcome(capsys, "init", str(folder), "--out", str(tmp_path / "r.yaml"))
    assert "unreadable image: not a JPEG, PNG, WebP, GIF, BMP or TIFF image" in outcome.refusal


def test_skipped_files_are_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "mine", per_class=4)
    for name in ("a.heic", "b.heic", "c.txt"):
        (next(path for path in folder.iterdir() if path.is_dir()) / name).write_text("no image")
    checked = Outcome(capsys, "datasets", "check", str(folder))
    assert checked.status == 0 and f"{folder}: skipped 3 files: 2 .heic, 1 .txt\n" in checked.out
    first = Outcome(capsys, "init", str(folder), "--out", str(tmp_path / "first.yaml"))
    assert first.status == 0 and "init: skipped 3 files: 2 .heic, 1 .txt\n" in first.err
