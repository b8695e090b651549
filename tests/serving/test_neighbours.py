"""Nearest training images of an image's class, in the response to requests for them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from syncclip import jobs
from syncclip.inference.model import Model, load
from syncclip.recipe.recipe import Recipe
from syncclip.serving import neighbours
from syncclip.serving.app import Front, Replica
from syncclip.serving.neighbours import PER_CLASS, Neighbours
from syncclip.shards.reader import ShardSet
from tests.conftest import TinyWorld
from tests.inference.conftest import Train
from tests.serving.test_app import form, post

BASE, NOVEL = 1, 5
"""A base class and a novel class of the tiny dataset."""


@pytest.fixture(scope="module")
def model(tiny: TinyWorld, tiny_set: str, tmp_path_factory: pytest.TempPathFactory) -> Model:
    recipe = Recipe.load(tiny.recipe, [f"training.synthetic={tiny_set}", "training.epochs=1"])
    return load(jobs.run_here(recipe, str(tmp_path_factory.mktemp("neighbours") / "run")).url, device="cpu")


def test_images_of_the_class_are_ordered_by_cosine_similarity(model: Model, tiny_set: str) -> None:
    synthetic = ShardSet(tiny_set)
    rows = synthetic.rows_of(NOVEL)[:PER_CLASS].tolist()
    pixels = model.preprocess(synthetic.image(rows[-1]))
    nearest = Neighbours(model).nearest(pixels, NOVEL, 100)
    features = model.image_features([synthetic.image(row) for row in rows])
    expected = np.sort(features @ features[-1])[::-1]
    assert [each["similarity"] for each in nearest] == pytest.approx(expected.tolist(), abs=1e-5)
    assert nearest[0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert {each["class"] for each in nearest} == {model.classes[NOVEL]}
    assert {each["caption"] for each in nearest} == set(synthetic.texts(np.array(rows)))
    assert {each["name"] for each in nearest} == {"/".join(Path(synthetic.name(row)).parts[-2:]) for row in rows}
    thumbnail = base64.b64decode(nearest[0]["image"].removeprefix("data:image/jpeg;base64,"))
    assert max(Image.open(io.BytesIO(thumbnail)).size) <= 96


def test_real_images_are_those_of_the_few_shot_sample(model: Model) -> None:
    index, pixels = Neighbours(model), model.preprocess(Image.new("RGB", (32, 32)))
    real = {label: [not each["synthetic"] for each in index.nearest(pixels, label, 100)] for label in (BASE, NOVEL)}
    assert sum(real[BASE]) == model.recipe.dataset.shots and not all(real[BASE])
    assert not any(real[NOVEL]), "novel classes have no real training images"


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(neighbours.log, "warning", lambda text, *values: messages.append(text % values))
    return messages


def test_unavailable_datasets_are_omitted(train: Train, warnings: list[str]) -> None:
    model = load(train("training.method=zeroshot").url)
    assert Neighbours(model).nearest(model.preprocess(Image.new("RGB", (32, 32))), 0, 3) == []
    (message,) = warnings
    assert message.startswith("training images are not shown: ") and "\n" not in message


def test_datasets_with_other_classes_are_omitted(model: Model, warnings: list[str]) -> None:
    other = load(model.url, device="cpu")
    other.classes = [f"other {name}" for name in other.classes]
    assert Neighbours(other).nearest(other.preprocess(Image.new("RGB", (32, 32))), BASE, 3) == []
    real, synthetic = warnings
    assert "does not have the classes of the run" in real
    assert "is no synthetic dataset with the classes of the run" in synthetic


def test_neighbours_are_returned_only_on_request(model: Model, images: Path) -> None:
    app, data = Front(Replica(model, neighbours=True).app(), None), (images / "03.png").read_bytes()
    assert list(post(app, "/classify", [data]).json) == ["labels"]
    reply = post(app, "/classify?neighbours=2", [data]).json
    assert [each["class"] for each in reply["neighbours"]] == [reply["labels"][0]["class"]] * 2
    several = post(app, "/classify?neighbours=2&top=1", **form(("a.png", data), ("b.png", data))).json["predictions"]
    assert [prediction["neighbours"] for prediction in several] == [reply["neighbours"]] * 2
    error = post(app, "/classify?neighbours=x", [data]).error
    assert error == "neighbours: 'x' is not an integer between 1 and 9999; use e.g. ?neighbours=3"


def test_service_without_neighbours_returns_none(model: Model, images: Path) -> None:
    app = Front(Replica(model).app(), None)
    assert post(app, "/classify?neighbours=2", [(images / "03.png").read_bytes()]).json["neighbours"] == []
