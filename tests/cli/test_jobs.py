"""The commands that run an experiment, as they are typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from syncclip import jobs
from syncclip.recipe.recipe import Recipe
from tests.cli.test_app import Outcome
from tests.conftest import TinyWorld
from tests.worlds.language import build_language_model
from tests.worlds.literature import Miniatures


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_from_synth_to_report_in_one_folder_with_the_bits_of_the_plain_loop(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    folder = str(shutil.copytree(tiny_set, tmp_path / "all"))
    alone = Path(shutil.copytree(tiny_set, tmp_path / "alone"))
    trained = Outcome(capsys, "train", tiny.recipe, "--out", folder, "training.method=syncclip")
    assert trained.status == 0, trained.err
    assert "HM (all)" in trained.out
    jobs.run_here(Recipe.load(tiny.recipe, ["training.method=syncclip"]), str(alone))
    for name in ("prompts.safetensors", "metrics.jsonl", "results.json"):
        assert Path(folder, name).read_bytes() == (alone / name).read_bytes()
    evaluated = Outcome(capsys, "evaluate", folder)
    assert evaluated.status == 0, evaluated.err
    assert trained.out.splitlines()[:5] == evaluated.out.splitlines()[:5]
    reported = Outcome(capsys, "report", folder)
    assert reported.status == 0, reported.err
    assert (Path(folder) / "report.html").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_study_runs_once_and_a_second_call_finds_all_there(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["study", tiny.recipe, "--out", str(tmp_path), f"training.synthetic={tiny_set}"]
    first = Outcome(capsys, *arguments)
    assert first.status == 0, first.err
    assert "syncclip-both" in first.out
    assert (tmp_path / "report.html").exists()

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr("syncclip.jobs.run_here", forbidden)
    second = Outcome(capsys, *arguments)
    assert second.status == 0, second.err
    assert "syncclip-both" in second.out


def test_choose_shows_what_was_chosen(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from syncclip.studies import tune

    chosen = {"selected": {"training.epochs": 5}, "all_classes_hm": 44.25}
    record = {"metric": "all_classes_hm", "configurations": {"syncclip-both": chosen}}
    monkeypatch.setattr(tune, "tune", lambda recipe, out: tune.Choice(recipe, record))
    outcome = Outcome(capsys, "tune", tiny.recipe)
    assert outcome.status == 0
    assert "training.epochs = 5" in outcome.out
    assert "44.2" in outcome.out


@pytest.fixture
def recipe(tiny: TinyWorld, tmp_path: Path) -> Path:
    """The tiny world's recipe, half of its images from captions of a tiny language model."""
    model = build_language_model(tmp_path / "model")
    file = tmp_path / "captioned.yaml"
    file.write_text(
        f"""
extends: {tiny.recipe}
synthesis:
  prompts:
    strategies:
      - name: template
      - name: captions
        file: {tmp_path / "captions.json"}
        writer: {{model: {model}, instruction: "a {{}}", captions: 2, max_tokens: 6}}
    classes:
      red square: ["a {{}} of one's own"]
"""
    )
    return file


def test_captions_are_written_once_shown_and_planned(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    assert "write the captions with `syncclip captions RECIPE" in Outcome(capsys, "plan", str(recipe)).error

    written = Outcome(capsys, "captions", str(recipe))
    assert written.status == 0, written.err
    found = json.loads((tmp_path / "captions.json").read_text())["sentences"]
    assert len(found) == 5 and "red square" not in found
    assert found["blue square"][1] in written.out
    assert f"10 captions of 5 classes: {tmp_path / 'captions.json'}" in written.out

    before = (tmp_path / "captions.json").read_bytes()
    assert Outcome(capsys, "captions", str(recipe)).status == 0
    assert (tmp_path / "captions.json").read_bytes() == before

    planned = Outcome(capsys, "plan", str(recipe))
    assert planned.status == 0, planned.err
    for prompt in ("a photo of a blue square.", found["blue square"][0], "a red square of one's own"):
        assert prompt in planned.out


def test_a_recipe_that_wants_no_captions_is_told_how_to(capsys: pytest.CaptureFixture[str], tiny: TinyWorld) -> None:
    assert "add {name: captions, file: FILE" in Outcome(capsys, "captions", tiny.recipe).error


@pytest.mark.parametrize(
    ("strategies", "sentence"),
    [
        ("[{name: captions}]", "strategies[0].writer: missing; set a language model"),
        ("[{name: captions, writer: {model: m}}]", "strategies[0].file: captions need a file of their own"),
        (
            "[{name: captions, writer: {model: m}, file: a}, {name: captions, writer: {model: n}, file: a}]",
            "strategies[1].file: captions need a file of their own",
        ),
    ],
)
def test_what_is_missing_to_write_captions_is_told(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, strategies: str, sentence: str
) -> None:
    refusal = Outcome(capsys, "captions", tiny.recipe, f"synthesis.prompts.strategies={strategies}").error
    assert sentence in refusal


def test_mistakes_of_a_reproduction_are_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "missing option '--root'" in Outcome(capsys, "reproduce", "few-shot").error
    assert "did you mean 'few-shot'?" in Outcome(capsys, "reproduce", "fewshot", "--root", str(tmp_path)).error
    assert "did you mean 'base-to-novel'?" in Outcome(capsys, "reproduce", "base", "--root", str(tmp_path)).error
    assert "datasets can't be read" in Outcome(capsys, "reproduce", "few-shot", "--root", str(tmp_path)).error
    wrong = Outcome(capsys, "reproduce", "few-shot", "training.epoch=1", "--root", str(tmp_path))
    assert "did you mean 'epochs'?" in wrong.error


def test_a_run_is_tested_on_another_dataset(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path
) -> None:
    jobs.run_here(Recipe.load(tiny.recipe, ["training.method=zeroshot", "training.data=real"]), str(tmp_path))
    tested = Outcome(capsys, "evaluate", str(tmp_path), "--dataset", "dtd", "--root", str(miniatures.root))
    assert "zeroshot-real-seed1: accuracy on test images of dtd, %" in tested.out
    assert (tmp_path / "transfer" / "dtd" / "results.json").is_file()


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("synthesis.images_per_clas=3", "command line: synthesis.images_per_clas: no such key; did you mean"),
        ("synthesis.images_per_class=many", "it must be a whole number"),
        ("synthesis.images_per_class=0", "synthesis.images_per_class: 0 is not allowed"),
        ("synthesis.generator.pipeline=/no/such/folder", "/no/such/folder"),
        ("dataset.name=icns", "did you mean 'icons'"),
        ("dataset.name=/no/such/folder", "/no/such/folder"),
        ("training.method=synclip", "did you mean 'syncclip'"),
        ("synthesis.actors=4096", "4,096 actors"),
    ],
)
@pytest.mark.usefixtures("no_ray_yet")
def test_synth_refuses_bad_input_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tmp_path: Path, override: str, part: str
) -> None:
    assert part in Outcome(capsys, "synth", tiny.recipe, "--out", str(tmp_path / "set"), override).error
    assert not (tmp_path / "set" / "plan.json").exists()


def test_a_folder_that_may_not_be_written_to_is_refused(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")  # root may write anywhere else, also where the mode forbids it
    outcome = Outcome(capsys, "synth", tiny.recipe, "--out", str(tmp_path / "file" / "set"))
    assert "Not a directory; choose a location" in outcome.error


def test_another_plan_in_the_same_folder_is_refused(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tiny_set: str
) -> None:
    refusal = Outcome(capsys, "synth", tiny.recipe, "--out", tiny_set, "synthesis.seed=5").error
    assert "seed is 0 there and 5 here" in refusal


def test_a_set_that_is_there_is_not_drawn_again(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    outcome = Outcome(capsys, "synth", tiny.recipe, "--out", shutil.copytree(tiny_set, tmp_path / "set").as_posix())
    assert outcome.status == 0
    assert "all 12 images exist already" in outcome.err
