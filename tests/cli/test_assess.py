"""`syncclip assess`: conclusion first, JSON, narrow lines, and the short form after `init`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from syncclip.cli.assess import WIDTH, lines, short
from syncclip.studies import gain_prediction
from syncclip.studies.assess import Assessment, ClassPair
from syncclip.studies.gain_prediction import ExpectedGain
from syncclip.studies.pilot import Pilot
from syncclip.studies.statistics.bootstrap import Interval
from tests.cli.test_app import Outcome
from tests.conftest import TinyWorld
from tests.worlds.dataset import folder_of_folders

MEASURED = Assessment(
    dataset="birds",
    clip="ViT-B-16, openai",
    base=100,
    novel=100,
    images=1600,
    chance=1.0,
    zero_shot=45.0,
    class_means=60.0,
    name_knowledge=0.75,
    similar=(ClassPair(("black footed albatross of the north", "laysan albatross"), 0.97),),
    confused=(ClassPair(("crow", "raven"), 41.0),),
    reason="no gain map is installed",
)
GAIN = ExpectedGain("syncclip-class-vectors-long-name", 4, "ivlp-real", Interval(4.1, -2, 10.2), Interval(6.0, 1, 11))
PILOT = Pilot(
    url="runs/pilot",
    split="val",
    configuration="syncclip-both",
    real_only="ivlp-real",
    seeds=1,
    images_per_class=4,
    measured_at=(1, 4),
    measured=Interval(3, 1, 5),
    limit=16,
    additional=Interval(1.5, 0.2, 3.0),
    verdict="more images help",
)


@pytest.fixture(autouse=True)
def without_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain_prediction, "MAP", tmp_path / "gain_map.csv")


def predicted(*expected: ExpectedGain) -> Assessment:
    return replace(MEASURED, reason=None, expected=expected, recommended=gain_prediction.recommend(expected))


def joined(assessment: Assessment) -> str:
    return " ".join(" ".join(lines(assessment, "birds.yaml")).split())


def test_the_conclusion_comes_first() -> None:
    assert lines(MEASURED, "birds.yaml")[0] == "No prediction: no gain map is installed; measured values only."
    first = " ".join(" ".join(lines(predicted(GAIN), "birds.yaml")[:2]).split())
    assert first.startswith(
        "Recommended: syncclip-class-vectors-long-name with 4 synthetic images per class; +4.1 points"
    )
    assert "(−2.0 to +10.2) over" in first
    assert "over real images only (ivlp-real)." in joined(predicted(GAIN))
    assert "real images only: ivlp-real for syncclip-class-vectors-long-name" in joined(predicted(GAIN))
    harmful = replace(GAIN, over_real=Interval(-3.0, -6, 0))
    assert lines(predicted(harmful), "birds.yaml")[0].startswith("Recommended method: none; no method with synthetic")
    assert lines(replace(MEASURED, pilot=PILOT), "birds.yaml")[0].startswith("Pilot: more images help. syncclip-both")


def test_lines_fit_a_terminal_of_80_columns() -> None:
    for assessment in (MEASURED, predicted(GAIN), replace(predicted(GAIN), pilot=PILOT)):
        shown = [line for line in lines(assessment, "birds.yaml") if not line.startswith("  syncclip ")]
        assert max(map(len, shown)) <= WIDTH


def test_an_interval_that_includes_zero_requires_a_pilot() -> None:
    sentence = "An interval includes zero"
    assert sentence in "\n".join(lines(predicted(GAIN), "birds.yaml"))
    sure = replace(GAIN, over_real=Interval(4, 1, 7))
    assert sentence not in "\n".join(lines(predicted(sure), "birds.yaml"))


def test_the_next_step_is_a_pilot_or_a_recipe() -> None:
    command = "syncclip study birds.yaml 'study.images_per_class=[1,4]' evaluation.split=val --out runs/pilot"
    next_step = ["Next, a pilot:", f"  {command}", "  syncclip assess birds.yaml --pilot runs/pilot"]
    assert lines(MEASURED, "birds.yaml")[1:4] == next_step
    assert "Next: `syncclip init birds`, then a pilot study with the recipe." in lines(MEASURED, "birds")
    assert "Next" not in " ".join(lines(replace(MEASURED, pilot=PILOT), "birds.yaml"))


def test_a_pilot_on_test_images_is_marked() -> None:
    step = joined(replace(MEASURED, validation=False))
    assert "evaluation.split" not in step and "(on test images, because the dataset has no validation split)" in step
    marked = "The pilot read test images, because the dataset has no validation split"
    assert marked in joined(replace(MEASURED, pilot=replace(PILOT, split="test")))
    assert marked not in joined(replace(MEASURED, pilot=PILOT))


def test_a_pilot_without_increment_or_extrapolation_is_explained() -> None:
    note = "A single number of images cannot show whether more images help"
    assert note in joined(replace(MEASURED, pilot=replace(PILOT, measured_at=(4,))))
    assert note not in joined(replace(MEASURED, pilot=PILOT))
    refused = replace(PILOT, additional=None, verdict="undecided", reason="no counterpart")
    assert joined(replace(MEASURED, pilot=refused)).startswith(
        "Pilot: undecided. syncclip-both with 4 images per class gained +3.0 points (+1.0 to +5.0) over ivlp-real. No "
        "extrapolation to more images: no counterpart."
    )


def test_name_knowledge_with_the_shots_of_the_map_is_printed() -> None:
    other = replace(predicted(GAIN), map_shots=16, map_knowledge=0.625, map_range=(0.2, 1.04))
    assert "range of the gain map 0.20 to 1.04" in joined(other)
    assert "with 16 shots, as in the gain map 0.62" in joined(other)
    assert "as in the gain map" not in joined(replace(other, map_knowledge=MEASURED.name_knowledge))


def test_limits_of_the_map_and_of_a_pilot_are_printed() -> None:
    printed = " ".join(lines(replace(predicted(GAIN), pilot=PILOT), "birds.yaml"))
    assert "measured on drawings" in printed
    assert "beyond 16 images per class" in printed and "variation between seeds" in printed


def test_the_short_form_has_three_lines() -> None:
    assert short(MEASURED, "birds.yaml") == [
        "name knowledge of CLIP 'ViT-B-16, openai': 0.75 (zero-shot 45.0 %, class means 60.0 %, chance 1.0 %)",
        "No prediction: no gain map is installed; measured values only.",
        "details: `syncclip assess birds.yaml`",
    ]


def test_a_recipe_or_a_dataset_is_assessed(capsys: pytest.CaptureFixture[str], tiny: TinyWorld) -> None:
    outcome = Outcome(capsys, "assess", tiny.recipe)
    assert outcome.status == 0, outcome.err
    assert "shapes: 6 classes, 3 of them base classes" in outcome.out
    assert "measured on 12 training images of base classes, no test image" in outcome.out
    outcome = Outcome(
        capsys, "assess", tiny.dataset, f"backbone.name={tiny.backbone}", "dataset.shots=3", "dataset.seed=1", "--json"
    )
    assert outcome.status == 0, outcome.err
    values = json.loads(outcome.out)
    assert (values["images"], values["base"], values["recommended"]) == (9, 3, None)
    assert values["reason"] == "no gain map is installed" and values["name_knowledge"] > 0


def test_a_folder_of_images_is_assessed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = folder_of_folders(tmp_path / "own", per_class=8)
    outcome = Outcome(capsys, "assess", str(folder), "dataset.shots=3")
    assert outcome.status == 0, outcome.err
    assert "own: 6 classes, 3 of them base classes; CLIP 'icons'" in outcome.out


def test_a_recipe_or_a_pilot_is_required(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "specify a recipe, a dataset, or --pilot DIR" in Outcome(capsys, "assess").error
    assert "no study found" in Outcome(capsys, "assess", "--pilot", str(tmp_path)).error


def test_init_prints_the_short_form(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, recipe = folder_of_folders(tmp_path / "own", per_class=8), str(tmp_path / "own.yaml")
    outcome = Outcome(capsys, "init", str(folder), "--out", recipe)
    assert outcome.status == 0, outcome.err
    written, *assessed = outcome.out.splitlines()
    assert written.startswith(f"{recipe}: preview")
    assert len(assessed) == 3 and assessed[0].startswith("name knowledge of CLIP 'icons': ")
    assert assessed[2] == f"details: `syncclip assess {recipe}`"


def test_init_does_not_download_a_clip_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder, recipe = folder_of_folders(tmp_path / "own", per_class=4), str(tmp_path / "own.yaml")
    outcome = Outcome(capsys, "init", str(folder), "--out", recipe, "--photographs")
    assert outcome.status == 0, outcome.err
    _, hint = outcome.out.splitlines()
    assert hint.endswith(f"`syncclip assess {recipe}` (downloads the CLIP model)")


def test_init_reports_why_a_dataset_is_not_assessed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder, recipe = folder_of_folders(tmp_path / "own", per_class=4), str(tmp_path / "own.yaml")
    outcome = Outcome(capsys, "init", str(folder), "dataset.base=[red circle]", "--out", recipe)
    assert outcome.status == 0, outcome.err
    assert outcome.out.splitlines()[1].startswith("not assessed: dataset 'own' has only one base class")
