"""Commands that run an experiment: output, resumption and errors."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from syncclip import jobs, storage
from syncclip.recipe.recipe import Recipe
from syncclip.runtime.progress import print_message
from tests.cli.test_app import Outcome
from tests.conftest import TinyWorld
from tests.worlds.language import build_language_model
from tests.worlds.literature import Miniatures


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_train_evaluate_and_report_share_a_folder_with_the_set(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    folder, local = (str(shutil.copytree(tiny_set, tmp_path / name)) for name in ("cluster", "local"))
    trained = Outcome(capsys, "train", tiny.recipe, "--out", folder, "training.method=syncclip")
    assert trained.status == 0, trained.err
    assert "HM (all)" in trained.out
    jobs.run_here(Recipe.load(tiny.recipe, ["training.method=syncclip"]), local)
    for name in ("prompts.safetensors", "metrics.jsonl", "results.json"):
        assert Path(folder, name).read_bytes() == Path(local, name).read_bytes()
    evaluated = Outcome(capsys, "evaluate", folder)
    assert evaluated.status == 0, evaluated.err
    assert trained.out.splitlines()[:5] == evaluated.out.splitlines()[:5]
    reported = Outcome(capsys, "report", folder)
    assert reported.status == 0, reported.err
    assert (Path(folder) / "report.html").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_finished_study_is_not_repeated(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tiny_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["study", tiny.recipe, "--out", str(tmp_path), f"training.synthetic={tiny_set}"]
    first = Outcome(capsys, *arguments)
    assert first.status == 0, first.err
    assert "syncclip-both" in first.out
    assert (tmp_path / "report.html").exists()

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a finished run was repeated")

    monkeypatch.setattr("syncclip.jobs.run_here", forbidden)
    second = Outcome(capsys, *arguments)
    assert second.status == 0, second.err
    assert "syncclip-both" in second.out

    monkeypatch.setattr("syncclip.cli.render.show_report", lambda _: print_message("the report"))
    third = Outcome(capsys, *arguments)
    assert third.err.index("chance: ") < third.err.index("the report"), "warnings precede the results"


def test_the_demo_ends_with_the_next_step(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncclip.cli.jobs.study", lambda *_: None)
    assert "`syncclip assess travel`" in Outcome(capsys, "demo").out


def test_tune_shows_overrides_warnings_and_the_next_command(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from syncclip.studies import outputs, tune

    selected = {"training.epochs": 5, "methods.ivlp.initial_words": "a photo of a"}
    entries = [{"values": {**selected, "training.epochs": epochs}, "all_classes_hm": 44.25} for epochs in (5, 3)]
    best = {"selected": selected, "all_classes_hm": 44.25, "search_space": entries}
    record = {"metric": "all_classes_hm", "seeds": [1], "images_per_class": 4, "configurations": {"ivlp-both": best}}
    url = str(tmp_path / "a search")
    outputs.write_json(f"{url}/tuned.json", record, storage.identity("search"))
    configurations = [{"method": "zeroshot"}, {"method": "ivlp", "overrides": {"training.momentum": 0.5, **selected}}]
    tuned = Recipe.load(tiny.recipe).with_values({"study.configurations": configurations})
    monkeypatch.setattr(tune, "tune", lambda recipe, out: tune.Choice(tuned, record, url))
    outcome = Outcome(capsys, "tune", tiny.recipe)
    assert outcome.status == 0 and "44.2" in outcome.out
    line = next(line for line in outcome.out.splitlines() if line.startswith("ivlp-both: "))
    recipe = Recipe.load(tiny.recipe, shlex.split(line.removeprefix("ivlp-both: ")))
    assert (recipe.training.method, recipe.training.data, recipe.training.momentum) == ("ivlp", "both", 0.5)
    assert (recipe.training.epochs, recipe.methods.ivlp.initial_words) == (5, "a photo of a")
    assert "warning: ivlp-both: training.epochs=5 is the largest value that was tried" in outcome.err
    assert outcome.out.endswith(f"report: {url}/report.html\nnext: syncclip study '{url}/recipe.yaml'\n")


@pytest.fixture
def recipe(tiny: TinyWorld, tmp_path: Path) -> Path:
    """The tiny recipe, with half of the prompts from captions of a tiny language model."""
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


def test_captions_are_written_once_and_planned(
    capsys: pytest.CaptureFixture[str], recipe: Path, tmp_path: Path
) -> None:
    assert "`syncclip captions RECIPE --out" in Outcome(capsys, "plan", str(recipe)).error

    written = Outcome(capsys, "captions", str(recipe))
    assert written.status == 0, written.err
    sentences = json.loads((tmp_path / "captions.json").read_text())["sentences"]
    assert len(sentences) == 5 and "red square" not in sentences
    assert sentences["blue square"][1] in written.out
    assert f"10 captions of 5 classes: {tmp_path / 'captions.json'}" in written.out

    before = (tmp_path / "captions.json").read_bytes()
    assert Outcome(capsys, "captions", str(recipe)).status == 0
    assert (tmp_path / "captions.json").read_bytes() == before

    planned = Outcome(capsys, "plan", str(recipe))
    assert planned.status == 0, planned.err
    for prompt in ("a photo of a blue square.", sentences["blue square"][0], "a red square of one's own"):
        assert prompt in planned.out


@pytest.mark.parametrize(
    ("strategies", "error"),
    [
        ("[{name: template}]", "add {name: captions, file: FILE"),
        ("[{name: captions}]", "strategies[0].writer is missing; set a language model"),
        ("[{name: captions, writer: {model: m}}]", "strategies[0].file: each captions strategy needs its own file"),
        (
            "[{name: captions, writer: {model: m}, file: a}, {name: captions, writer: {model: n}, file: a}]",
            "strategies[1].file: each captions strategy needs its own file",
        ),
    ],
)
def test_missing_settings_of_captions_are_errors(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, strategies: str, error: str
) -> None:
    assert error in Outcome(capsys, "captions", tiny.recipe, f"synthesis.prompts.strategies={strategies}").error


def test_errors_of_a_reproduction_are_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = ["--root", str(tmp_path)]
    for arguments, error in (
        (["few-shot"], "missing option '--root'"),
        (["fewshot", *root], "did you mean 'few-shot'?"),
        (["base", *root], "did you mean 'base-to-novel'?"),
        (["few-shot", *root], "datasets can't be read"),
        (["few-shot", "training.epoch=1", *root], "did you mean 'training.epochs'?"),
    ):
        assert error in Outcome(capsys, "reproduce", *arguments).error


def test_a_run_is_evaluated_on_another_dataset(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, miniatures: Miniatures, tmp_path: Path
) -> None:
    jobs.run_here(Recipe.load(tiny.recipe, ["training.method=zeroshot", "training.data=real"]), str(tmp_path))
    evaluated = Outcome(capsys, "evaluate", str(tmp_path), "--dataset", "dtd", "--root", str(miniatures.root))
    assert "zeroshot-real-seed1: accuracy on test images of dtd, %" in evaluated.out
    assert (tmp_path / "transfer" / "dtd" / "results.json").is_file()


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ("synthesis.images_per_clas=3", "command line: synthesis.images_per_clas: no such key; did you mean"),
        ("synthesis.images_per_class=many", "it must be a whole number"),
        ("synthesis.images_per_class=0", "synthesis.images_per_class: 0 is not allowed"),
        ("synthesis.generator.pipeline=/no/such/folder", "/no/such/folder"),
        ("dataset.name=icns", "did you mean 'icons'"),
        ("dataset.name=/no/such/folder", "/no/such/folder"),
        ("synthesis.actors=4096", "4,096 actors"),
    ],
)
@pytest.mark.usefixtures("no_ray_yet")
def test_invalid_input_of_synth_is_one_line(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tmp_path: Path, override: str, error: str
) -> None:
    assert error in Outcome(capsys, "synth", tiny.recipe, "--out", str(tmp_path / "set"), override).error
    assert not (tmp_path / "set" / "plan.json").exists()


def test_an_existing_set_is_neither_regenerated_nor_replaced(
    capsys: pytest.CaptureFixture[str], tiny: TinyWorld, tiny_set: str, tmp_path: Path
) -> None:
    out = str(shutil.copytree(tiny_set, tmp_path / "set"))
    repeated = Outcome(capsys, "synth", tiny.recipe, "--out", out)
    assert repeated.status == 0 and "all 12 images already exist" in repeated.err
    assert "seed: 0 -> 5" in Outcome(capsys, "synth", tiny.recipe, "--out", out, "synthesis.seed=5").error
    (tmp_path / "file").write_text("not a folder")
    unwritable = Outcome(capsys, "synth", tiny.recipe, "--out", str(tmp_path / "file" / "set"))
    assert "Not a directory; choose a location" in unwritable.error
