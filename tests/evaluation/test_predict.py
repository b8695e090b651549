from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.evaluation.predict import (
    Predictions,
    batches,
    confusions,
    fit_temperature,
    predict,
    results,
    save_evaluation,
)


class TableMethod(nn.Module):
    """Knows every image's scores by heart: an image's colour is its row."""

    def __init__(self, scores: Tensor, base: int) -> None:
        super().__init__()
        self.scores, self.base = scores, base
        self.classnames = [f"class {label}" for label in range(scores.shape[1])]
        self.clip = SimpleNamespace(device=torch.device("cpu"))
        self.passes: list[int] = []

    def logits(self, images: Tensor) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        self.passes += images[:, 0].long().tolist()
        return self.scores[images[:, 0].long()]


class Rows:
    """Images that show nothing but their own row."""

    def __init__(self, labels: list[int]) -> None:
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, row: int) -> Image.Image:
        return Image.new("RGB", (1, 1), (row, 0, 0))


def transform(image: Image.Image) -> Tensor:
    return torch.tensor([float(image.getpixel((0, 0))[0])])  # type: ignore[index]


def evaluate_method(method: TableMethod, images: Rows, **changes: Any) -> tuple[dict[str, Any], Predictions]:
    predictions = predict(method, images, method.base, transform, **changes)
    return results(predictions, method.classnames, method.base), predictions


def random_world(images: int = 60, classes: int = 5, base: int = 3) -> tuple[TableMethod, Rows, Tensor]:
    generator = torch.Generator().manual_seed(3)
    scores = 2 * torch.randn(images, classes, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator).tolist()
    return TableMethod(scores, base), Rows(labels), scores


def test_every_protocol_equals_a_loop_over_images() -> None:
    method, images, scores = random_world()
    numbers, _ = evaluate_method(method, images, batch=7)
    hits: dict[str, list[bool]] = {"base": [], "novel": [], "all_classes_base": [], "all_classes_novel": []}
    for row, label in enumerate(images.labels.tolist()):
        split, candidates = ("base", [0, 1, 2]) if label < 3 else ("novel", [3, 4])
        hits[split].append(max(candidates, key=lambda c: float(scores[row, c])) == label)
        hits[f"all_classes_{split}"].append(max(range(5), key=lambda c: float(scores[row, c])) == label)
    percent = {name: 100 * sum(right) / len(right) for name, right in hits.items()}
    everything = hits["all_classes_base"] + hits["all_classes_novel"]
    percent["all_classes_accuracy"] = 100 * sum(everything) / len(everything)
    percent["hm"] = 2 / (1 / percent["base"] + 1 / percent["novel"])
    percent["all_classes_hm"] = 2 / (1 / percent["all_classes_base"] + 1 / percent["all_classes_novel"])
    assert {name: numbers[name] for name in percent} == pytest.approx(percent)
    assert numbers["counts"] == {"base": len(hits["base"]), "novel": len(hits["novel"]), "all": 60}


def test_openworld_auc_equals_a_loop_over_pairs() -> None:
    method, images, scores = random_world()
    numbers, _ = evaluate_method(method, images, batch=7)
    labels, sure = images.labels.tolist(), scores.double().softmax(1)
    right = [
        label == max((c for c in range(5) if (c < 3) == (label < 3)), key=lambda c: float(scores[row, c]))
        for row, label in enumerate(labels)
    ]
    pairs = [(b, n) for b, label in enumerate(labels) if label < 3 for n, other in enumerate(labels) if other >= 3]
    hits = [right[b] and right[n] and bool(sure[b, :3].max() > sure[n, :3].max()) for b, n in pairs]
    assert 0 < sum(hits) < len(hits)
    assert numbers["openworld_auc"] == pytest.approx(100 * sum(hits) / len(hits))


def test_only_candidates_are_predicted() -> None:
    method, _, scores = random_world()
    candidates = [0, 2, 4]
    images = Rows([candidates[row % 3] for row in range(60)])
    numbers, predictions = evaluate_method(method, images, candidates=candidates)
    best = [max(candidates, key=lambda c: float(scores[row, c])) for row in range(60)]
    assert predictions.all_classes_prediction.tolist() == best != scores.argmax(1).tolist()
    assert numbers["all_classes_accuracy"] == pytest.approx(
        100 * sum(guess == label for guess, label in zip(best, images.labels, strict=True)) / 60
    )
    for row, label in enumerate(images.labels.tolist()):
        half = [c for c in candidates if (c < 3) == (label < 3)]
        assert predictions.within_split_prediction[row] == max(half, key=lambda c: float(scores[row, c]))
        confidence = float(scores[row, candidates].softmax(0).max())
        assert predictions.all_classes_confidence[row] == pytest.approx(confidence, rel=1e-5)


def test_accuracy_of_each_class_equals_a_loop() -> None:
    method, images, scores = random_world()
    numbers, _ = evaluate_method(method, images)
    for label, found in enumerate(numbers["per_class"]):
        rows = [row for row, shown in enumerate(images.labels) if shown == label]
        right = sum(int(scores[row].argmax()) == label for row in rows)
        assert (found["label"], found["name"], found["count"]) == (label, f"class {label}", len(rows))
        assert found["all_classes"] == pytest.approx(100 * right / len(rows))
        assert found["within_split"] >= found["all_classes"]


def test_every_image_is_seen_once() -> None:
    method, images, _ = random_world()
    evaluate_method(method, images, batch=8)
    assert method.passes == list(range(60))


def test_confidences_are_probabilities_of_the_predictions() -> None:
    method, images, scores = random_world()
    predictions = predict(method, images, method.base, transform)
    for row, label in enumerate(images.labels.tolist()):
        half = slice(0, 3) if label < 3 else slice(3, 5)
        assert predictions.within_split_confidence[row] == pytest.approx(
            float(scores[row, half].softmax(0).max()), rel=1e-5
        )
        assert predictions.all_classes_confidence[row] == pytest.approx(float(scores[row].softmax(0).max()), rel=1e-5)


def test_without_novel_classes_their_numbers_are_missing() -> None:
    method, images, _ = random_world(classes=3, base=3)
    numbers, _ = evaluate_method(method, images)
    missing = ("novel", "hm", "all_classes_novel", "all_classes_hm", "openworld_auc", "ece_novel")
    assert [numbers[name] for name in missing] == [None] * 6
    assert numbers["base"] == numbers["all_classes_base"] == numbers["all_classes_accuracy"]


def test_a_class_without_images_has_no_accuracy() -> None:
    method = TableMethod(torch.eye(3), 2)
    numbers, _ = evaluate_method(method, Rows([0, 1, 1]))
    assert [found["all_classes"] for found in numbers["per_class"]] == [100.0, 50.0, None]


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(UserError, match="contains no images"):
        predict(TableMethod(torch.eye(3), 2), Rows([]), 2, transform)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    method, images, _ = random_world()
    numbers, predictions = evaluate_method(method, images)
    save_evaluation(str(tmp_path), numbers, predictions)
    assert json.loads(storage.read_bytes(str(tmp_path / "results.json"))) == numbers
    found = Predictions.read(str(tmp_path / "predictions.parquet"))
    assert all(np.array_equal(getattr(found, n), getattr(predictions, n)) for n in Predictions.__dataclass_fields__)


def test_two_evaluations_write_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        method, images, _ = random_world()
        save_evaluation(str(tmp_path / name), *evaluate_method(method, images))
    for file in ("results.json", "predictions.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@given(count=st.integers(1, 300), size=st.integers(1, 40), parts=st.integers(1, 9))
def test_parts_of_whole_batches_hold_every_image_once(count: int, size: int, parts: int) -> None:
    shared = [batches(count, size, part, parts) for part in range(parts)]
    assert [one for part in shared for one in part] == batches(count, size)
    assert [row for part in shared for one in part for row in range(one.start, one.stop)] == list(range(count))
    assert max(map(len, shared)) - min(map(len, shared)) <= 1


@pytest.mark.parametrize("parts", [1, 2, 3, 11])  # 60 images are 9 batches of 7, so some of 11 parts are empty
def test_joined_parts_write_the_bytes_of_one(tmp_path: Path, parts: int) -> None:
    method, images, _ = random_world()
    save_evaluation(str(tmp_path / "one"), *evaluate_method(method, images, batch=7))
    found = [predict(method, images, method.base, transform, batch=7, part=part, parts=parts) for part in range(parts)]
    joined = Predictions.joined(found[::-1], len(images))
    save_evaluation(str(tmp_path / "many"), results(joined, method.classnames, method.base), joined)
    for file in ("results.json", "predictions.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "many" / file).read_bytes()


@pytest.mark.parametrize("chosen", [[0, 1, 1], [0]])
def test_a_part_that_is_missing_or_came_twice_is_never_counted(chosen: list[int]) -> None:
    method, images, _ = random_world()
    found = [predict(method, images, method.base, transform, batch=7, part=part, parts=2) for part in chosen]
    with pytest.raises(AssertionError, match="missing or duplicated"):
        Predictions.joined(found, len(images))


def test_the_worst_pairs_by_hand() -> None:
    label, said = np.array([0, 0, 0, 1, 2, 2, 2]), np.array([1, 0, 2, 0, 2, 1, 2])
    half, sure = np.zeros(7, np.int64), np.ones(7)
    found = confusions(Predictions(np.arange(7), label, half, said, sure, sure, sure), ["cat", "dog", "cow"])
    assert [(one["labels"], one["count"]) for one in found] == [([0, 1], 2), ([0, 2], 1), ([1, 2], 1)]
    assert found[0] == {"labels": [0, 1], "names": ["cat", "dog"], "count": 2, "share": 50.0}
    assert found[1]["share"] == pytest.approx(100 / 6)


def fitted(method: TableMethod, images: Rows) -> float:
    return fit_temperature(method, images, method.base, transform, batch=7, threads=1)  # type: ignore[arg-type]


def test_the_temperature_is_the_likeliest_one_of_base_images() -> None:
    method, _, every = random_world(200)
    labels = (every / 1.7).softmax(1).multinomial(1, generator=torch.Generator().manual_seed(4))[:, 0]
    images, of_base = Rows(labels.tolist()), labels < method.base
    scores, right = every[of_base].double(), labels[of_base]

    def loss(temperature: float) -> float:
        return float(nn.functional.cross_entropy(scores / temperature, right))

    found = fitted(method, images)
    assert loss(found) < min(loss(1.01 * found), loss(found / 1.01))
    assert fitted(TableMethod(3 * method.scores, method.base), images) == pytest.approx(3 * found)


def test_confidences_are_those_of_the_temperature() -> None:
    method, images, _ = random_world()
    cold = predict(method, images, method.base, transform, temperature=2.0)  # type: ignore[arg-type]
    halved = predict(TableMethod(method.scores / 2, method.base), images, 3, transform)  # type: ignore[arg-type]
    assert np.array_equal(cold.all_classes_confidence, halved.all_classes_confidence)
    assert np.array_equal(cold.within_split_confidence, halved.within_split_confidence)


def test_no_temperature_is_fitted_without_images_of_base_classes() -> None:
    with pytest.raises(UserError, match=r"evaluation.calibrate: there are no validation images of base classes"):
        fitted(TableMethod(torch.eye(3), 2), Rows([2, 2]))
