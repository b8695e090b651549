"""A trained run as a model: what it says is what the evaluation said, without the dataset."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import syncclip
from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.evaluation.predict import PREDICTIONS, Predictions
from syncclip.inference.model import Model, load, open_image
from syncclip.methods import METHODS
from syncclip.runs.classes import CLASSES as CLASSES_FILE
from syncclip.runs.classes import RunClasses
from tests.conftest import TinyWorld
from tests.inference.conftest import Train
from tests.worlds.clip import make_clip_folder
from tests.worlds.dataset import CLASSES
from tests.worlds.families import families, make_family_folder
from tests.worlds.rewritten import rewrite

SLOW = ("roberta",)


def test_images(tiny: TinyWorld) -> list[Image.Image]:
    """Those of the tiny dataset's test split, which a run's dataset held too."""
    split = load_dataset(DatasetSettings(name=tiny.dataset)).split("test")
    return [split.image(row) for row in range(len(split))]


test_images.__test__ = False  # type: ignore[attr-defined]


def agrees_with_the_evaluation(model: Model, run: syncclip.Run, images: list[Image.Image]) -> None:
    """Whether the likeliest classes and their probabilities are those in the run's predictions."""
    output = Predictions.read(storage.join(run.url, PREDICTIONS))
    assert len(output) == len(images)
    actual = model.classify(images, top=1)
    assert [model.classes.index(best.name) for (best,) in actual] == output.all_classes_prediction.tolist()
    np.testing.assert_allclose(
        [best.probability for (best,) in actual], output.all_classes_confidence, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("method", [name for name in METHODS if name != "promptkd"])  # see test_taught.py
def test_every_method_says_what_it_said_in_its_evaluation(tiny: TinyWorld, train: Train, method: str) -> None:
    run = train(f"training.method={method}")
    agrees_with_the_evaluation(load(run.url), run, test_images(tiny))


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in families()]
)
def test_so_does_every_family_of_backbones(tiny: TinyWorld, train: Train, tmp_path: Path, family: str) -> None:
    clip = make_family_folder(tmp_path / "clip", families()[family])
    run = train(f"backbone.name={clip}", "training.method=zeroshot", "dataset.template='{}.'")
    agrees_with_the_evaluation(load(run.url), run, test_images(tiny))


def test_an_oracle_keeps_which_classes_are_base(tiny: TinyWorld, train: Train) -> None:
    run = train("training.method=ivlp", "training.data=all_real", "training.synthetic=null")
    model = load(run.url)
    assert (model.base, model.classes) == (3, CLASSES)
    agrees_with_the_evaluation(model, run, test_images(tiny))


def test_a_calibrated_run_says_what_it_said_in_its_evaluation(tiny: TinyWorld, train: Train) -> None:
    run = train("training.method=coop", "evaluation.calibrate=true")
    model = load(run.url)
    assert model.metadata.temperature == run.results["temperature"] != 1.0
    agrees_with_the_evaluation(model, run, test_images(tiny))


def test_other_classes_are_told_apart_as_those_that_no_real_image_taught(train: Train, images: Path) -> None:
    other = load(train("training.method=mmrl").url).with_classes(["red circle", "blue cross", "green square"])
    pixels = torch.stack([other.preprocess(file) for file in sorted(images.iterdir())])
    with torch.no_grad():
        own = other.method.scores(other.method.image_features(pixels), other.method.text_features())
        torch.testing.assert_close(other.method.logits(pixels), own)


def test_one_image_or_many_in_whatever_form(train: Train, images: Path) -> None:
    model = load(train("training.method=zeroshot").url)
    path = images / "03.png"
    picture = Image.open(path).convert("RGB")
    pixels = np.asarray(picture)
    forms = [str(path), path, picture, pixels, torch.from_numpy(pixels.copy()).permute(2, 0, 1), model.preprocess(path)]
    expected = model.classify(path)
    assert len(expected) == 5 and sum(label.probability for label in model.classify(path, top=99)) == pytest.approx(1)
    for form in forms:
        assert model.classify(form) == expected
    many = model.classify(forms)
    for labels in many:
        np.testing.assert_allclose([item.probability for item in labels], [item.probability for item in expected], 1e-6)
    assert model.classify(np.stack([pixels, pixels]))[1][0].name == expected[0].name
    assert model.classify([]) == [] and model.probabilities([]).shape == (0, 6)
    assert model.classify(Image.open(path).convert("L"))[0].name in CLASSES


def test_features_are_those_that_the_probabilities_come_from(train: Train, images: Path) -> None:
    model = load(train("training.method=syncclip").url)
    files = sorted(images.iterdir())
    pictures, texts = model.image_features(files, batch=5), model.text_features()
    assert pictures.shape == (12, texts.shape[1]) and len(texts) == 6
    np.testing.assert_allclose(np.linalg.norm(pictures, axis=1), 1, rtol=1e-5)
    scale = float(model.method.clip.logit_scale)
    scores = np.exp(scale * pictures @ texts.T)
    np.testing.assert_allclose(model.probabilities(files, batch=7), scores / scores.sum(1, keepdims=True), rtol=1e-3)


def test_other_classes_need_no_training(train: Train, images: Path) -> None:
    model = load(train("training.method=syncclip").url)
    other = model.with_classes(["red circle", "anything"])
    assert other.classes == ["red circle", "anything"] and other.base == 2
    np.testing.assert_allclose(other.text_features()[0], model.text_features()[0], atol=1e-6)
    assert {label.name for label in other.classify(images / "00.png")} == set(other.classes)
    assert model.classes == CLASSES, "the first model stays as it is"
    for names in ("cat", [], ["cat", "cat"], ["cat", " "]):
        with pytest.raises(UserError, match="is not a list of distinct names"):
            model.with_classes(names)
    with pytest.raises(ValueError, match="must contain {} exactly once"):
        model.with_classes(["cat", "dog"], template="a photo")


def test_what_belongs_to_its_own_classes_takes_no_others(train: Train) -> None:
    model = load(train("training.method=coop", "methods.coop.class_specific=true").url)
    with pytest.raises(UserError, match="learned class-specific parameters .* do not transfer to other classes"):
        model.with_classes(["cat", "dog"])


def test_threads_share_a_model(train: Train, images: Path) -> None:
    model = load(train("training.method=ivlp").url)
    files, actual = sorted(images.iterdir()), {}
    expected = model.probabilities(files)
    threads = [threading.Thread(target=lambda n=n: actual.update({n: model.probabilities(files)})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for probabilities in actual.values():
        np.testing.assert_array_equal(probabilities, expected)
    assert len(actual) == 4
    assert torch.backends.cuda.flash_sdp_enabled(), "the choice of attention is the process' own, and stays as it was"


def test_a_run_without_its_classes_is_an_error_that_names_the_remedy(train: Train) -> None:
    run = train("training.method=zeroshot")
    storage.remove(storage.join(run.url, CLASSES_FILE))
    with pytest.raises(UserError, match=r"classes\.json is missing; evaluate the run once: `syncclip evaluate"):
        load(run.url)


def test_another_clip_is_refused_and_a_moved_one_can_be_named(train: Train, tmp_path: Path, images: Path) -> None:
    run, image = train("training.method=ivlp"), images / "00.png"
    moved = make_clip_folder(tmp_path / "moved")
    assert load(run.url, str(moved)).classify(image) == load(run.url).classify(image)
    other = make_clip_folder(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match="differs from that of the training in its weights"):
        load(run.url, f"local-dir:{other}")


@pytest.mark.parametrize(
    ("section", "values", "reason"),
    [
        ("model_cfg", {"quick_gelu": True}, "its weights or activations"),
        ("preprocess_cfg", {"mean": [0.4, 0.5, 0.5]}, "its preprocessing \\(mean\\)"),
        ("preprocess_cfg", {"interpolation": "bilinear"}, "its preprocessing \\(interpolation\\)"),
    ],
)
def test_the_same_weights_in_another_network_are_another_clip(
    train: Train, tmp_path: Path, section: str, values: dict[str, object], reason: str
) -> None:
    run = train("training.method=zeroshot")
    config = make_clip_folder(tmp_path / "moved") / "open_clip_config.json"
    held = json.loads(config.read_text())
    held[section] |= values
    config.write_text(json.dumps(held))
    with pytest.raises(UserError, match=reason):
        load(run.url, str(tmp_path / "moved"))


@pytest.mark.fault
@pytest.mark.parametrize(
    "values", [{"only": [99]}, {"only": []}, {"base_count": 9}, {"classnames": []}, {"template": "no place"}]
)
def test_a_strange_file_of_classes_is_one_sentence(train: Train, values: dict[str, object]) -> None:
    run = train("training.method=zeroshot")
    place = storage.join(run.url, CLASSES_FILE)
    held = storage.read_document(place, RunClasses, "")
    assert held is not None
    rewrite(place, json.dumps(held.model_dump() | values).encode())
    with pytest.raises(UserError, match=r"classes\.json cannot be read by this version of syncclip"):
        load(run.url)


def test_classes_travel_with_the_run(train: Train) -> None:
    run = train("training.method=syncclip", "dataset.template=a picture of a {}.")
    held = json.loads(storage.read_bytes(storage.join(run.url, CLASSES_FILE)))
    assert (held["classnames"], held["base_count"], held["template"]) == (CLASSES, 3, "a picture of a {}.")
    assert len(held["clip_sha256"]) == 64 and held["preprocess"]["interpolation"] == "bicubic"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (3, "not an image: int"),
        (np.zeros((4, 4, 7), np.uint8), r"not an image: uint8 \(4, 4, 7\)"),
        (np.zeros((4, 4, 3)), r"not an image: float64 \(4, 4, 3\)"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_what_is_no_image_is_one_sentence(image: object, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        open_image(image)  # type: ignore[arg-type]


def test_the_script_in_the_docs_runs_as_it_stands(train: Train, images: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "inference.md").read_text(encoding="utf-8")
    script, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(script.splitlines()) <= 20
    files = [str(path) for path in sorted(images.iterdir())]
    command = [sys.executable, "-c", script, train("training.method=syncclip").url, *files]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(output) == 15 and output[0].startswith("<syncclip.Model syncclip-both")
    assert all(line.startswith(file) for line, file in zip(output[1:], files, strict=False))
    assert output[-1].removeprefix("among novel classes alone: ") in CLASSES[3:]


def test_what_is_not_begun_is_dropped_where_an_image_is_broken(train: Train, images: Path) -> None:
    model, begun = load(train("training.method=zeroshot").url), []

    class Slow(Image.Image):
        def convert(self, *_: object) -> Image.Image:  # type: ignore[override]
            begun.append(self)
            time.sleep(0.2)
            return Image.new("RGB", (8, 8))

    with pytest.raises(UserError, match=r"gone\.png"):
        model.classify(["gone.png", *(Slow() for _ in range(60))])
    assert len(begun) < 30
