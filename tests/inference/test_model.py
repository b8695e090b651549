"""`Model`: predictions equal those of the evaluation, without the dataset."""

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
from syncclip.inference.model import load, open_image
from syncclip.methods import METHODS
from syncclip.runs.classes import CLASSES as CLASSES_FILE
from syncclip.runs.classes import RunClasses
from tests.conftest import TinyWorld
from tests.inference.conftest import Train
from tests.worlds.clip import make_clip_folder
from tests.worlds.dataset import CLASSES
from tests.worlds.families import families, make_family_folder
from tests.worlds.rewritten import rewrite


def check_predictions(tiny: TinyWorld, run: syncclip.Run) -> None:
    """Compare a run's predictions for the test split with those of its evaluation."""
    split = load_dataset(DatasetSettings(name=tiny.dataset)).split("test")
    expected, model = Predictions.read(storage.join(run.url, PREDICTIONS)), load(run.url)
    labels = model.classify([split.image(row) for row in range(len(split))], top=1)
    assert [model.classes.index(best.name) for (best,) in labels] == expected.all_classes_prediction.tolist()
    probabilities = [best.probability for (best,) in labels]
    np.testing.assert_allclose(probabilities, expected.all_classes_confidence, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in ("cocoop", "tip", "mmrl") else pytest.mark.nightly)
        for name in METHODS
        if name != "promptkd"  # see test_teacher.py
    ],
)
def test_predictions_of_each_method_match_its_evaluation(tiny: TinyWorld, train: Train, method: str) -> None:
    check_predictions(tiny, train(f"training.method={method}"))


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=() if name in ("siglip", "resnet") else pytest.mark.nightly) for name in families()],
)
def test_predictions_of_each_backbone_match_its_evaluation(
    tiny: TinyWorld, train: Train, tmp_path: Path, family: str
) -> None:
    clip = make_family_folder(tmp_path / "clip", families()[family])
    check_predictions(tiny, train(f"backbone.name={clip}", "training.method=zeroshot", "dataset.template='{}.'"))


def test_an_upper_bound_run_keeps_its_base_classes(tiny: TinyWorld, train: Train) -> None:
    run = train("training.method=ivlp", "training.data=all_real", "training.synthetic=null")
    model = load(run.url)
    assert (model.base, model.classes) == (3, CLASSES)
    check_predictions(tiny, run)


def test_a_calibrated_run_applies_its_temperature(tiny: TinyWorld, train: Train) -> None:
    run = train("training.method=coop", "evaluation.calibrate=true")
    assert load(run.url).metadata.temperature == run.results["temperature"] != 1.0
    check_predictions(tiny, run)


def test_new_classes_are_scored_like_novel_classes(train: Train, images: Path) -> None:
    model = load(train("training.method=mmrl").url).with_classes(["red circle", "blue cross", "green square"])
    pixels = torch.stack([model.preprocess(file) for file in sorted(images.iterdir())])
    with torch.no_grad():
        scores = model.method.scores(model.method.image_features(pixels), model.method.text_features())
        torch.testing.assert_close(model.method.logits(pixels), scores)


def test_classify_accepts_paths_images_arrays_and_tensors(train: Train, images: Path) -> None:
    model = load(train("training.method=zeroshot").url)
    path = images / "03.png"
    image = Image.open(path).convert("RGB")
    pixels = np.asarray(image)
    forms = [str(path), path, image, pixels, torch.from_numpy(pixels.copy()).permute(2, 0, 1), model.preprocess(path)]
    expected = model.classify(path)
    assert len(expected) == 5 and sum(label.probability for label in model.classify(path, top=99)) == pytest.approx(1)
    for form in forms:
        assert model.classify(form) == expected
    for labels in model.classify(forms):
        np.testing.assert_allclose([item.probability for item in labels], [item.probability for item in expected], 1e-6)
    assert model.classify(np.stack([pixels, pixels]))[1][0].name == expected[0].name
    assert model.classify([]) == [] and model.probabilities([]).shape == (0, 6)
    assert model.classify(Image.open(path).convert("L"))[0].name in CLASSES


def test_probabilities_are_the_softmax_of_scaled_cosines(train: Train, images: Path) -> None:
    model = load(train("training.method=syncclip").url)
    files = sorted(images.iterdir())
    features, texts = model.image_features(files, batch=5), model.text_features()
    assert features.shape == (12, texts.shape[1]) and len(texts) == 6
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    scores = np.exp(float(model.method.clip.logit_scale) * features @ texts.T)
    np.testing.assert_allclose(model.probabilities(files, batch=7), scores / scores.sum(1, keepdims=True), rtol=1e-3)


def test_with_classes_replaces_the_classes_without_training(train: Train, images: Path) -> None:
    model = load(train("training.method=syncclip").url)
    other = model.with_classes(["red circle", "anything"])
    assert other.classes == ["red circle", "anything"] and other.base == 2
    np.testing.assert_allclose(other.text_features()[0], model.text_features()[0], atol=1e-6)
    assert {label.name for label in other.classify(images / "00.png")} == set(other.classes)
    assert model.classes == CLASSES, "the original model is unchanged"
    for names in ("cat", [], ["cat", "cat"], ["cat", " "]):
        with pytest.raises(UserError, match="list of distinct names"):
            model.with_classes(names)
    with pytest.raises(ValueError, match="exactly once"):
        model.with_classes(["cat", "dog"], template="a photo")


def test_class_specific_parameters_do_not_transfer_to_new_classes(train: Train) -> None:
    model = load(train("training.method=coop", "methods.coop.class_specific=true").url)
    with pytest.raises(UserError, match="class-specific parameters"):
        model.with_classes(["cat", "dog"])


def test_threads_share_a_model(train: Train, images: Path) -> None:
    model = load(train("training.method=syncclip").url)
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
    assert torch.backends.cuda.flash_sdp_enabled(), "the process-wide choice of attention is restored"


def test_a_run_without_classes_json_is_an_error(train: Train) -> None:
    run = train("training.method=zeroshot")
    storage.remove(storage.join(run.url, CLASSES_FILE))
    with pytest.raises(UserError, match=r"classes\.json is missing; .*`syncclip evaluate"):
        load(run.url)


def test_a_moved_clip_is_accepted_and_another_rejected(train: Train, tmp_path: Path, images: Path) -> None:
    run, image = train("training.method=syncclip"), images / "00.png"
    moved = make_clip_folder(tmp_path / "moved")
    assert load(run.url, str(moved)).classify(image) == load(run.url).classify(image)
    other = make_clip_folder(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match=r"does not match .* \(different weights"):
        load(run.url, f"local-dir:{other}")


@pytest.mark.parametrize(
    ("section", "values", "reason"),
    [
        ("model_cfg", {"quick_gelu": True}, "different weights or activations"),
        ("preprocess_cfg", {"mean": [0.4, 0.5, 0.5]}, "different preprocessing: mean"),
        ("preprocess_cfg", {"interpolation": "bilinear"}, "different preprocessing: interpolation"),
    ],
)
def test_the_same_weights_with_another_config_are_rejected(
    train: Train, tmp_path: Path, section: str, values: dict[str, object], reason: str
) -> None:
    file = make_clip_folder(tmp_path / "moved") / "open_clip_config.json"
    config = json.loads(file.read_text())
    config[section] |= values
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=reason):
        load(train("training.method=zeroshot").url, str(tmp_path / "moved"))


@pytest.mark.fault
@pytest.mark.parametrize(
    "values", [{"only": [99]}, {"only": []}, {"base_count": 9}, {"classnames": []}, {"template": "no place"}]
)
def test_invalid_classes_json_is_one_error(train: Train, values: dict[str, object]) -> None:
    url = storage.join(train("training.method=zeroshot").url, CLASSES_FILE)
    classes = storage.read_document(url, RunClasses, "")
    assert classes is not None
    rewrite(url, json.dumps(classes.model_dump() | values).encode())
    with pytest.raises(UserError, match=r"classes\.json cannot be read"):
        load(url.rpartition("/")[0])


def test_a_run_contains_its_classes(train: Train) -> None:
    run = train("training.method=zeroshot", "dataset.template=a picture of a {}.")
    classes = json.loads(storage.read_bytes(storage.join(run.url, CLASSES_FILE)))
    assert (classes["classnames"], classes["base_count"], classes["template"]) == (CLASSES, 3, "a picture of a {}.")
    assert len(classes["clip_sha256"]) == 64 and classes["preprocess"]["interpolation"] == "bicubic"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (3, "not an image: int"),
        (np.zeros((4, 4, 7), np.uint8), r"not an image: uint8 \(4, 4, 7\)"),
        (np.zeros((4, 4, 3)), r"not an image: float64 \(4, 4, 3\)"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_other_objects_are_rejected(image: object, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        open_image(image)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_example_in_the_docs_runs(train: Train, images: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "inference.md").read_text(encoding="utf-8")
    script, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(script.splitlines()) <= 20
    files = [str(path) for path in sorted(images.iterdir())]
    command = [sys.executable, "-c", script, train("training.method=syncclip").url, *files]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(output) == 15 and output[0].startswith("<syncclip.Model syncclip-both")
    assert all(line.startswith(file) for line, file in zip(output[1:], files, strict=False))
    assert output[-1].removeprefix("among novel classes alone: ") in CLASSES[3:]


def test_an_unreadable_image_cancels_the_queued_ones(train: Train, images: Path) -> None:
    model, converted = load(train("training.method=zeroshot").url), []

    class Slow(Image.Image):
        def convert(self, *_: object) -> Image.Image:  # type: ignore[override]
            converted.append(self)
            time.sleep(0.2)
            return Image.new("RGB", (8, 8))

    with pytest.raises(UserError, match=r"gone\.png"):
        model.classify(["gone.png", *(Slow() for _ in range(60))])
    assert len(converted) < 30
