"""Predictions and metrics for all evaluation protocols, computed in one pass over the test images.

Each image has two predictions: one among the classes of its split (base or novel, as in CoCoOp's base-to-novel
protocol), and one among all classes. Datasets may exclude classes from the candidates, such as the 800 ImageNet
classes that are missing from ImageNet-A. As in CoOp, accuracy is the percentage of correctly classified images, not a
mean over classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from syncclip import storage
from syncclip.core.formats import parse_json
from syncclip.core.settings import UserError
from syncclip.core.text import cut
from syncclip.evaluation.metrics import METRIC_HEADINGS, calibration_error, harmonic_mean, openworld_auc
from syncclip.runtime.determinism import deterministic
from syncclip.runtime.threads import thread_pool

if TYPE_CHECKING:
    from syncclip.methods import Method
    from syncclip.methods.settings import TestDomain
    from syncclip.shards.reader import ImageSet


RESULTS, PREDICTIONS = "results.json", "predictions.parquet"

WORST_PAIRS = 10
"""Maximum number of class pairs that `confused_pairs` returns."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of a method for n images; labels and predictions are class ids."""

    row: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    within_split_prediction: npt.NDArray[np.int64]  # candidates: classes of the image's split
    all_classes_prediction: npt.NDArray[np.int64]  # candidates: all classes
    within_split_confidence: npt.NDArray[np.float64]  # probability of the predicted class
    all_classes_confidence: npt.NDArray[np.float64]
    base_score: npt.NDArray[np.float64]  # largest probability of a base class, among all classes; NaN: unknown

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def joined(cls, parts: Sequence[Predictions], count: int) -> Predictions:
        """Join parts that together contain each of `count` images exactly once, and sort the result by row."""
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__}
        order = np.argsort(columns["row"], kind="stable")
        assert np.array_equal(columns["row"][order], np.arange(count)), "the parts must contain each image exactly once"
        return cls(**{name: column[order] for name, column in columns.items()})

    @classmethod
    def read(cls, url: str, owner: str | None = None) -> Predictions:
        """Read predictions written by `save_evaluation`; `owner` is the run's owner ID (see `storage.checksums`)."""
        table = storage.read_table(url, [*cls.__dataclass_fields__], "evaluate the run again", owner=owner)
        return cls(**{name: table[name].to_numpy() for name in table.column_names})


def predict(
    method: Method,
    images: ImageSet,
    base: int,
    transform: Callable[[Image.Image], Tensor],
    batch: int = 256,
    threads: int = 1,
    candidates: Sequence[int] | None = None,
    part: int = 0,
    parts: int = 1,
    temperature: float = 1.0,
    domains: Sequence[TestDomain | None] = (None,),
    baseline: Method | None = None,
) -> list[Predictions]:
    """Classify all images, or one of several parts; class names are encoded only once.

    Predictions are bit-identical for any number of parts, because each part consists of whole batches. If there are
    fewer batches than parts, some parts are empty.

    Args:
        method: trained or untrained method, on the device to use.
        images: labelled images, at least one.
        base: number of base classes, which have the lowest ids.
        transform: evaluation transform of the backbone, image -> (3, H, W).
        batch: images per forward pass. The batch size may affect the last bits of the confidences.
        threads: number of torch threads.
        candidates: ids of the candidate classes, which must include all labels; None: all classes.
        part, parts: index of this part, starting at 0, and number of parts.
        temperature: calibration temperature, by which the logits are divided.
        domains: domains whose prompts are used to encode the images (see `Method.logits_by_domain`); None: the
            method's default.
        baseline: second method that classifies the same images, without `temperature`.

    Returns:
        One `Predictions` per domain, followed by those of `baseline`. Images are decoded and transformed once.

    Raises:
        UserError: there are no images, or an image is unreadable.
    """
    if len(images) == 0:
        raise UserError("the split contains no images to evaluate; add images or select a different evaluation.split")
    labels = torch.from_numpy(np.array(images.labels, np.int64))
    slices = batches(len(images), batch, part, parts)
    rows = np.concatenate([np.arange(0), *(np.arange(each.start, each.stop) for each in slices)])
    empty = torch.zeros(0, len(method.classnames), dtype=torch.float64)
    temperatures = [temperature] * len(domains) + [1.0] * (baseline is not None)
    outputs = [[_predict(empty, labels[:0], base, None)] for _ in temperatures]
    for each, logits in _logits(method, images, transform, slices, threads, domains, baseline):
        for batch_columns, scores, divisor in zip(outputs, logits, temperatures, strict=True):
            batch_columns.append(_predict(scores / divisor, labels[each], base, candidates))
    columns = [[torch.cat(column).numpy() for column in zip(*each, strict=True)] for each in outputs]
    return [Predictions(rows, labels.numpy()[rows], *each) for each in columns]


def fit_temperature(
    method: Method, images: ImageSet, base: int, transform: Callable[[Image.Image], Tensor], batch: int, threads: int
) -> float:
    """Fit the temperature T that minimises the cross-entropy of softmax(logits / T) on images of base classes.

    The loss is convex in 1/T. The root of the loss derivative is computed by bisection in [1/100, 100]. See
    `predict` for the arguments.

    Raises:
        UserError: there are no images of base classes, or an image is unreadable.

    Source: Guo et al. 2017, arXiv 1706.04599, section 4.2.
    """
    labels = torch.from_numpy(np.array(images.labels, np.int64))
    if not bool((of_base := labels < base).any()):
        raise UserError(
            "evaluation.calibrate requires validation images of base classes, but there are none; add images or set "
            "evaluation.calibrate=false"
        )
    batch_logits = [logits for _, (logits,) in _logits(method, images, transform, batches(len(images), batch), threads)]
    logits, target = torch.cat(batch_logits)[of_base], labels[of_base, None]
    low, high = 1e-2, 1e2
    for _ in range(60):
        middle = (low * high) ** 0.5
        excess = ((middle * logits).softmax(1) * logits).sum(1) - logits.gather(1, target)[:, 0]
        low, high = (middle, high) if excess.mean() < 0 else (low, middle)
    return 1 / low


def _logits(
    method: Method,
    images: ImageSet,
    transform: Callable[[Image.Image], Tensor],
    slices: Sequence[slice],
    threads: int,
    domains: Sequence[TestDomain | None] = (None,),
    baseline: Method | None = None,
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield each slice of rows with its (B, C) logits in double precision for each domain and for `baseline`, while a
    thread decodes the next batch."""

    def load(rows: slice) -> Tensor:
        return torch.stack([transform(images.image(row)) for row in range(rows.start, rows.stop)])

    training = method.training
    method.eval()
    with deterministic(threads), torch.no_grad(), thread_pool(1, "decode") as decoder:
        pending = [decoder.submit(load, rows) for rows in slices[:1]]
        for rows, following in zip(slices, [*slices[1:], None], strict=False):
            pixels = pending.pop().result()
            if following is not None:
                pending.append(decoder.submit(load, following))
            pixels = pixels.to(method.clip.device)
            logits = method.logits_by_domain(pixels, domains)
            outputs = logits if baseline is None else [*logits, baseline.logits(pixels)]
            yield rows, [output.double().cpu() for output in outputs]
    method.train(training)


def batches(count: int, size: int, part: int = 0, parts: int = 1) -> list[slice]:
    """Return one slice of rows per forward pass, for one of several parts of `count` images.

    >>> batches(10, 4, 1, 2)
    [slice(4, 8, None), slice(8, 10, None)]
    """
    assert 0 <= part < parts
    every = [slice(first, min(first + size, count)) for first in range(0, count, size)]
    return every[len(every) * part // parts : len(every) * (part + 1) // parts]


def results(predictions: Predictions, classnames: Sequence[str], base: int, bins: int = 15) -> dict[str, Any]:
    """Compute the metrics of all protocols in per cent; metrics of a split without images are None.

    Returns:
        Accuracies within split (`base`, `novel`, `hm`) and with all classes as candidates (`all_classes_base`,
        `all_classes_novel`, `all_classes_accuracy`, `all_classes_hm`); `openworld_auc`; calibration errors with all
        classes (`ece`) and within split (`ece_base`, `ece_novel`); `counts` of images; `per_class`, a list with label,
        name, count, within_split and all_classes; and `confused` (see `confusions`).
    """
    p = predictions
    is_base = p.label < base
    within, among_all = p.within_split_prediction == p.label, p.all_classes_prediction == p.label
    numbers: dict[str, Any] = {
        "base": _accuracy(within[is_base]),
        "novel": _accuracy(within[~is_base]),
        "all_classes_base": _accuracy(among_all[is_base]),
        "all_classes_novel": _accuracy(among_all[~is_base]),
        "all_classes_accuracy": _accuracy(among_all),
    }
    for prefix in ("", "all_classes_"):
        first, second = numbers[f"{prefix}base"], numbers[f"{prefix}novel"]
        defined = first is not None and second is not None
        numbers[f"{prefix}hm"] = float(harmonic_mean(first, second)) if defined else None
    auc = openworld_auc(p.base_score, within, ~is_base)
    numbers["openworld_auc"] = None if np.isnan(auc) or np.isnan(p.base_score).any() else auc
    numbers["ece"] = calibration_error(p.all_classes_confidence, among_all, bins)
    for name, mask in (("ece_base", is_base), ("ece_novel", ~is_base)):
        numbers[name] = calibration_error(p.within_split_confidence[mask], within[mask], bins) if mask.any() else None
    numbers["counts"] = {"base": int(is_base.sum()), "novel": int((~is_base).sum()), "all": len(p)}
    numbers["per_class"] = [
        {
            "label": label,
            "name": name,
            "count": int((p.label == label).sum()),
            "within_split": _accuracy(within[p.label == label]),
            "all_classes": _accuracy(among_all[p.label == label]),
        }
        for label, name in enumerate(classnames)
    ]
    numbers["confused"] = confusions(p, classnames)
    return numbers


def confusions(predictions: Predictions, classnames: Sequence[str]) -> list[dict[str, Any]]:
    """List the most frequently confused class pairs in descending order, with all classes as candidates.

    Returns:
        One dictionary per pair, with `names` and the attributes of `ConfusedPair`.
    """
    pairs = confused_pairs(predictions.label, predictions.all_classes_prediction, len(classnames))
    return [
        {
            "labels": list(pair.labels),
            "names": [classnames[label] for label in pair.labels],
            "count": pair.count,
            "share": pair.share,
        }
        for pair in pairs
    ]


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that a classifier confuses.

    Attributes:
        labels: ids of the classes, ascending.
        count: number of images of either class predicted as the other.
        share: `count` as a percentage of the images of both classes.
    """

    labels: tuple[int, int]
    count: int
    share: float


def confused_pairs(label: npt.NDArray[np.int64], prediction: npt.NDArray[np.int64], classes: int) -> list[ConfusedPair]:
    """List up to `WORST_PAIRS` pairs of confused classes, most frequent first; ties are broken by label."""
    wrong = prediction != label
    pairs = np.sort(np.stack([label[wrong], prediction[wrong]], axis=1), axis=1)
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)
    totals = np.bincount(label, minlength=classes)
    return [
        ConfusedPair((a, b), int(count), float(100 * count / (totals[a] + totals[b])))
        for i in np.argsort(-counts, kind="stable")[:WORST_PAIRS]
        for (a, b), count in [(distinct[i].tolist(), counts[i])]
    ]


def save_evaluation(
    run_url: str, numbers: dict[str, Any], predictions: Predictions, owner: str = storage.NOBODY
) -> None:
    """Write `predictions.parquet` and then `results.json` to a folder, each atomically and with the given owner."""
    storage.write_table(storage.join(run_url, PREDICTIONS), pa.table(vars(predictions)), owner)
    text = json.dumps(numbers, indent=2, allow_nan=False) + "\n"
    storage.write_with_checksum(storage.join(run_url, RESULTS), text.encode(), owner=owner)


def read_results(url: str, owner: str | None = None) -> dict[str, Any]:
    """Read `results.json`; raise a `UserError` if it is corrupt or does not belong to the given owner."""
    content = parse_json(storage.read_verified(url, owner), url, dict, remedy := "evaluate the run again")
    counts = content.get("counts", {})
    numbers = [content[key] for key in METRIC_HEADINGS if content.get(key) is not None]
    numbers += counts.values() if isinstance(counts, dict) else [counts]
    if wrong := [number for number in numbers if not isinstance(number, int | float)]:
        raise UserError(f"{url}: {cut(repr(wrong[0]))} is not a number; {remedy}")
    return content


def _predict(
    logits: Tensor, labels: Tensor, base: int, candidates: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the columns of `Predictions` that follow `label` from (B, C) logits."""
    if candidates is not None:
        others = torch.ones(logits.shape[1], dtype=torch.bool)
        others[list(candidates)] = False
        assert not others[labels].any(), "the class of each image must be a candidate"
        logits = logits.masked_fill(others, -torch.inf)
    all_classes_confidence, all_classes_prediction = logits.softmax(1).max(1)
    in_base = torch.arange(logits.shape[1])[None, :] < base
    in_split = in_base == (labels < base)[:, None]
    within_split_confidence, within_split_prediction = logits.masked_fill(~in_split, -torch.inf).softmax(1).max(1)
    base_score = logits.softmax(1)[:, :base].amax(1)
    confidences = within_split_confidence, all_classes_confidence
    return within_split_prediction, all_classes_prediction, *confidences, base_score


def _accuracy(correct: npt.NDArray[np.bool_]) -> float | None:
    return float(100 * correct.mean()) if len(correct) else None
