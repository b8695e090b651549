"""Exported runs, loaded by the public loaders alone: their logits are the run's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.inference.export import FORMATS, Format, export
from syncclip.inference.model import Model, load
from syncclip.runs.classes import CLASSES as CLASSES_FILE
from syncclip.runs.classes import RunClasses
from tests.inference.conftest import Train
from tests.worlds.dataset import CLASSES

LOADERS: dict[str, str] = {
    "onnx": """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
numpy.save(sys.argv[3], session.run(["logits"], {"images": numpy.load(sys.argv[2])})[0])
assert "syncclip" not in sys.modules
""",
    "torch": """
import sys, numpy, torch
program = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    numpy.save(sys.argv[3], program(torch.from_numpy(numpy.load(sys.argv[2]))).numpy())
assert "syncclip" not in sys.modules
""",
}


def pixels_of(model: Model, images: Path, count: int) -> np.ndarray:
    """(count, 3, S, S) of the images again and again, each a little different."""
    prepared = torch.stack([model.preprocess(path) for path in sorted(images.iterdir())])
    found = prepared[torch.arange(count) % len(prepared)]
    noise = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    array: np.ndarray = (found + 0.1 * noise).numpy()
    return array


def differs(model: Model, place: str, kind: str, pixels: np.ndarray, folder: Path) -> float:
    """The largest difference of logits between a run and its exported model, in a process that doesn't know of us."""
    np.save(folder / "pixels.npy", pixels)
    command = [sys.executable, "-c", LOADERS[kind], place, str(folder / "pixels.npy"), str(folder / "logits.npy")]
    subprocess.run(command, check=True, cwd=folder)
    with torch.no_grad():
        expected = model.method.logits(torch.from_numpy(pixels)).masked_fill(model.others, -torch.inf).numpy()
    assert np.array_equal(np.isinf(np.load(folder / "logits.npy")), np.isinf(expected))
    expected = expected[:, ~model.others.numpy()]
    assert np.abs(expected - expected.mean(axis=1, keepdims=True)).max() > 0.1, "logits that are alike show nothing"
    return float(np.abs(np.load(folder / "logits.npy")[:, ~model.others.numpy()] - expected).max())


def only(url: str, labels: list[int]) -> None:
    """Have a run name some of its classes alone, as on a test set that shows no others."""
    place = storage.join(url, CLASSES_FILE)
    held = storage.read_document(place, RunClasses, "")
    assert held is not None
    storage.write_document(place, held.model_copy(update={"only": labels}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("method", ["coop", "syncclip"])
def test_logits_are_the_runs_on_200_images(
    train: Train, images: Path, tmp_path: Path, method: str, kind: Format
) -> None:
    run = train(f"training.method={method}")
    if method == "coop":
        only(run.url, [0, 2, 3, 5])
    model = load(run.url)
    place = export(model, kind, str(tmp_path / "out"))
    assert differs(model, place, kind, pixels_of(model, images, 200), tmp_path) <= 1e-4
    told = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert told["classnames"] == CLASSES and told["preprocess"]["mean"] == [0.5, 0.5, 0.5]


def test_vectors_are_for_features_that_one_has_already(train: Train, images: Path, tmp_path: Path) -> None:
    model = load(train("training.method=kgcoop").url)
    export(model, "vectors", str(tmp_path))
    held = load_file(tmp_path / "class_vectors.safetensors")
    features = model.image_features(sorted(images.iterdir()))
    scores = np.exp(held["logit_scale"] * features @ held["class_vectors"].T)
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, model.probabilities(sorted(images.iterdir())), rtol=1e-4)


def test_a_method_whose_texts_depend_on_the_image_is_refused(train: Train, tmp_path: Path) -> None:
    model = load(train("training.method=cocoop").url)
    for kind in FORMATS:
        with pytest.raises(UserError, match="'cocoop' has class vectors of its own for every image"):
            export(model, kind, str(tmp_path / kind))
    assert not (tmp_path / "onnx").exists()


def test_an_unknown_format_and_a_missing_library_are_one_sentence(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(train("training.method=zeroshot").url)
    with pytest.raises(UserError, match="no format 'tflite'; choose one of onnx, torch, vectors"):
        export(model, "tflite", str(tmp_path / "out"))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"--to onnx: .*onnxscript.*pip install 'syncclip\[export\]'"):
        export(model, "onnx", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
