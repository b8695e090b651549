"""Predictions and metrics of all protocols, against loops over images."""

from __future__ import annotations

import json
from collections.abc import Sequence
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

FILES = ("results.json", "predictions.parquet")


class TableMethod(nn.Module):
    """A method with a table of logits; the colour of an image is its row."""

    def __init__(self, scores: Tensor, base: int) -> None:
        super().__init__()
        self.scores, self.base = scores, base
        self.classnames = [f"class {label}" for label in range(scores.shape[1])]
        self.clip = SimpleNamespace(device=torch.device("cpu"))
        self.rows: list[int] = []

    def logits(self, images: Tensor) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        self.rows += images[:, 0].long().tolist()
        return self.scores[images[:, 0].long()]

    def logits_by_domain(self, images: Tensor, domains: Sequence[str | None]) -> list[Tensor]:
        """The columns of the synthetic domain are in reverse order."""
        logits = self.logits(images)
        return [logits if domain is None else logits.flip(1) for domain in domains]


class RowImages:
    """Images of a single pixel with the row as its colour."""

    def __init__(self, labels: list[int]) -> None:
        self.labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, row: int) -> Image.Image:
        return Image.new("RGB", (1, 1), (row, 0, 0))


def transform(image: Image.Image) -> Tensor:
    return torch.tensor([float(image.getpixel((0, 0))[0])])


def evaluate(method: TableMethod, images: RowImages, **options: Any) -> tuple[dict[str, Any], Predictions]:
    (predictions,) = predict(method, images, method.base, transform, **options)
    return results(predictions, method.classnames, method.base), predictions


def random_case(images: int = 60, classes: int = 5, base: int = 3) -> tuple[TableMethod, RowImages, Tensor]:
    generator = torch.Generator().manual_seed(3)
    scores = 2 * torch.randn(images, classes, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator).tolist()
    return TableMethod(scores, base), RowImages(labels), scores


def test_accuracies_equal_a_loop_over_images() -> None:
    method, images, scores = random_case()
    numbers, _ = evaluate(method, images, batch=7)
    assert method.rows == list(range(60)), "each image is predicted once"
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
    method, images, scores = random_case()
    numbers, _ = evaluate(method, images, batch=7)
    labels, probabilities = images.labels.tolist(), scores.double().softmax(1)
    right = [
        label == max((c for c in range(5) if (c < 3) == (label < 3)), key=lambda c: float(scores[row, c]))
        for row, label in enumerate(labels)
    ]
    base, novel = ([row for row, label in enumerate(labels) if (label < 3) == split] for split in (True, False))
    hits = [
        right[b] and right[n] and bool(probabilities[b, :3].max() > probabilities[n, :3].max())
        for b in base
        for n in novel
    ]
    assert 0 < sum(hits) < len(hits)
    assert numbers["openworld_auc"] == pytest.approx(100 * sum(hits) / len(hits))


def test_only_candidates_are_predicted() -> None:
    method, _, scores = random_case()
    candidates = [0, 2, 4]
    images = RowImages([candidates[row % 3] for row in range(60)])
    numbers, predictions = evaluate(method, images, candidates=candidates)
    best = [max(candidates, key=lambda c: float(scores[row, c])) for row in range(60)]
    assert predictions.all_classes_prediction.tolist() == best != scores.argmax(1).tolist()
    assert numbers["all_classes_accuracy"] == pytest.approx(100 * np.mean(np.array(best) == images.labels))
    for row, label in enumerate(images.labels.tolist()):
        split = [c for c in candidates if (c < 3) == (label < 3)]
        assert predictions.within_split_prediction[row] == max(split, key=lambda c: float(scores[row, c]))
        confidence = float(scores[row, candidates].softmax(0).max())
        assert predictions.all_classes_confidence[row] == pytest.approx(confidence, rel=1e-5)


def test_accuracy_by_class_equals_a_loop() -> None:
    method, images, scores = random_case()
    numbers, _ = evaluate(method, images)
    for label, entry in enumerate(numbers["per_class"]):
        rows = np.flatnonzero(images.labels == label).tolist()
        right = sum(int(scores[row].argmax()) == label for row in rows)
        assert (entry["label"], entry["name"], entry["count"]) == (label, f"class {label}", len(rows))
        assert entry["all_classes"] == pytest.approx(100 * right / len(rows))
        assert entry["within_split"] >= entry["all_classes"]


def test_confidences_are_probabilities_of_the_predictions() -> None:
    method, images, scores = random_case()
    _, predictions = evaluate(method, images)
    for row, label in enumerate(images.labels.tolist()):
        split = slice(0, 3) if label < 3 else slice(3, 5)
        within_split, all_classes = (float(logits.softmax(0).max()) for logits in (scores[row, split], scores[row]))
        assert predictions.within_split_confidence[row] == pytest.approx(within_split, rel=1e-5)
        assert predictions.all_classes_confidence[row] == pytest.approx(all_classes, rel=1e-5)


def test_metrics_of_missing_images_are_none() -> None:
    method, images, _ = random_case(classes=3, base=3)
    numbers, _ = evaluate(method, images)
    novel = ("novel", "hm", "all_classes_novel", "all_classes_hm", "openworld_auc", "ece_novel")
    assert [numbers[name] for name in novel] == [None] * 6
    assert numbers["base"] == numbers["all_classes_base"] == numbers["all_classes_accuracy"]
    numbers, _ = evaluate(TableMethod(torch.eye(3), 2), RowImages([0, 1, 1]))
    assert [entry["all_classes"] for entry in numbers["per_class"]] == [100.0, 50.0, None]
    with pytest.raises(UserError, match="contains no images"):
        evaluate(TableMethod(torch.eye(3), 2), RowImages([]))


def test_saved_evaluation_is_read_back(tmp_path: Path) -> None:
    method, images, _ = random_case()
    numbers, predictions = evaluate(method, images)
    save_evaluation(str(tmp_path), numbers, predictions)
    assert json.loads(storage.read_bytes(str(tmp_path / "results.json"))) == numbers
    stored = Predictions.read(str(tmp_path / "predictions.parquet"))
    assert all(np.array_equal(getattr(stored, n), getattr(predictions, n)) for n in Predictions.__dataclass_fields__)


@given(count=st.integers(1, 300), size=st.integers(1, 40), parts=st.integers(1, 9))
def test_parts_consist_of_whole_batches(count: int, size: int, parts: int) -> None:
    shares = [batches(count, size, part, parts) for part in range(parts)]
    joined = [rows for share in shares for rows in share]
    assert joined == batches(count, size)
    assert [row for rows in joined for row in range(rows.start, rows.stop)] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("parts", [1, 2, 3, 11])  # 60 images are 9 batches of 7, so some of 11 parts are empty
def test_joined_parts_are_written_bit_identically(tmp_path: Path, parts: int) -> None:
    method, images, _ = random_case()
    save_evaluation(str(tmp_path / "single"), *evaluate(method, images, batch=7))
    predictions = [evaluate_part(method, images, part, parts) for part in range(parts)]
    joined = Predictions.joined(predictions[::-1], len(images))
    save_evaluation(str(tmp_path / "joined"), results(joined, method.classnames, method.base), joined)
    for file in FILES:
        assert (tmp_path / "single" / file).read_bytes() == (tmp_path / "joined" / file).read_bytes()


def evaluate_part(method: TableMethod, images: RowImages, part: int, parts: int) -> Predictions:
    return predict(method, images, method.base, transform, batch=7, part=part, parts=parts)[0]


def test_one_pass_over_the_images_gives_the_predictions_of_all_domains() -> None:
    method, images, scores = random_case()
    default, synthetic = predict(method, images, method.base, transform, batch=7, domains=(None, "synthetic"))
    assert method.rows == list(range(60))
    assert default.all_classes_prediction.tolist() == scores.argmax(1).tolist()
    assert synthetic.all_classes_prediction.tolist() == (4 - scores.argmax(1)).tolist()
    assert np.array_equal(synthetic.label, default.label)


@pytest.mark.parametrize("selected", [[0, 1, 1], [0]])
def test_missing_or_repeated_part_is_an_error(selected: list[int]) -> None:
    method, images, _ = random_case()
    with pytest.raises(AssertionError, match="each image exactly once"):
        Predictions.joined([evaluate_part(method, images, part, 2) for part in selected], len(images))


def test_confusions_by_hand() -> None:
    label, prediction = np.array([0, 0, 0, 1, 2, 2, 2]), np.array([1, 0, 2, 0, 2, 1, 2])
    zeros, ones = np.zeros(7, np.int64), np.ones(7)
    predictions = Predictions(np.arange(7), label, zeros, prediction, ones, ones, ones)
    pairs = confusions(predictions, ["cat", "dog", "cow"])
    assert [(pair["labels"], pair["count"]) for pair in pairs] == [([0, 1], 2), ([0, 2], 1), ([1, 2], 1)]
    assert pairs[0] == {"labels": [0, 1], "names": ["cat", "dog"], "count": 2, "share": 50.0}
    assert pairs[1]["share"] == pytest.approx(100 / 6)


def fitted(method: TableMethod, images: RowImages) -> float:
    return fit_temperature(method, images, method.base, transform, batch=7, threads=1)


def test_temperature_maximises_the_likelihood_of_base_images() -> None:
    method, _, logits = random_case(200)
    labels = (logits / 1.7).softmax(1).multinomial(1, generator=torch.Generator().manual_seed(4))[:, 0]
    images, is_base = RowImages(labels.tolist()), labels < method.base
    scores, right = logits[is_base].double(), labels[is_base]

    def loss(temperature: float) -> float:
        return float(nn.functional.cross_entropy(scores / temperature, right))

    temperature = fitted(method, images)
    assert loss(temperature) < min(loss(1.01 * temperature), loss(temperature / 1.01))
    assert fitted(TableMethod(3 * method.scores, method.base), images) == pytest.approx(3 * temperature)


def test_temperature_divides_the_logits() -> None:
    method, images, _ = random_case()
    _, scaled = evaluate(method, images, temperature=2.0)
    _, expected = evaluate(TableMethod(method.scores / 2, method.base), images)
    assert np.array_equal(scaled.all_classes_confidence, expected.all_classes_confidence)
    assert np.array_equal(scaled.within_split_confidence, expected.within_split_confidence)


def test_temperature_requires_images_of_base_classes() -> None:
    with pytest.raises(UserError, match=r"evaluation.calibrate requires validation images of base classes"):
        fitted(TableMethod(torch.eye(3), 2), RowImages([2, 2]))
