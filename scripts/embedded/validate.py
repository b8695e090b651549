"""Evaluate the levels of name knowledge and the generator on training and validation images of the suite `symbols`.

`python -m scripts.embedded.validate` prints a table of the levels. `python -m scripts.embedded.validate SUITE FOLDER`
prints a table of a suite's synthetic datasets, FOLDER/<dataset>.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from syncclip.clip.backbone import Backbone, BackboneSettings, load_backbone
from syncclip.clip.prompt_text import filled
from syncclip.datasets import DatasetSettings, load_dataset
from syncclip.datasets.loading import suite_of
from syncclip.embedded.towers import TOWERS
from syncclip.shards.reader import ImageSet, ShardSet

from .drawings import SYMBOLS


def features(backbone: Backbone, images: ImageSet, rows: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Return image features (N, D) of unit length and labels (N,)."""
    rows = np.arange(len(images)) if rows is None else rows
    batch = torch.stack([backbone.preprocess(images.image(int(row))) for row in rows])
    model = backbone.model
    with torch.no_grad():
        encoded: Tensor = model.encode_image(batch)  # type: ignore[operator]
    return functional.normalize(encoded, dim=-1), torch.from_numpy(np.asarray(images.labels[rows])).long()


def class_means(encoded: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the normalised mean feature of each class (C, D)."""
    means = torch.zeros(classes, encoded.shape[1]).index_add_(0, labels, encoded)
    return functional.normalize(means, dim=-1)


def accuracy(encoded: Tensor, labels: Tensor, prototypes: Tensor, candidates: range) -> float:
    """Return the accuracy in percent on the images of the candidate classes."""
    keep = (labels >= candidates.start) & (labels < candidates.stop)
    predictions = (encoded[keep] @ prototypes[candidates.start : candidates.stop].T).argmax(1) + candidates.start
    return 100 * float((predictions == labels[keep]).float().mean())


def leave_one_out(encoded: Tensor, labels: Tensor, candidates: range) -> float:
    """Return the accuracy in percent of class means without the image to be classified."""
    keep = (labels >= candidates.start) & (labels < candidates.stop)
    encoded, labels = encoded[keep], labels[keep] - candidates.start
    sums = torch.zeros(len(candidates), encoded.shape[1]).index_add_(0, labels, encoded)
    own = functional.normalize(sums[labels] - encoded, dim=-1)
    scores = encoded @ functional.normalize(sums, dim=-1).T
    scores[torch.arange(len(labels)), labels] = (encoded * own).sum(1)
    return 100 * float((scores.argmax(1) == labels).float().mean())


def names(backbone: Backbone, classnames: list[str], template: str) -> Tensor:
    tokens = backbone.tokenizer([filled(template, name) for name in classnames])
    model = backbone.model
    with torch.no_grad():
        encoded: Tensor = model.encode_text(tokens)  # type: ignore[operator]
    return functional.normalize(encoded, dim=-1)


def validate_levels(suite: str) -> Iterator[str]:
    """Yield a table, as means over the datasets: zero-shot accuracy on validation images, and class means of shots."""
    yield (
        "| `pretrained` | base | novel | base (all) | novel (all) | zero-shot, base training images | class means "
        "| ratio | ratio above chance |"
    )
    yield "|---" * 9 + "|"
    datasets = [load_dataset(settings) for settings in suite_of(DatasetSettings(name=suite)).values()]
    backbone = load_backbone(BackboneSettings())
    # All levels share the image tower.
    encoded = [[features(backbone, dataset.splits[split]) for split in ("val", "train")] for dataset in datasets]
    for tag in TOWERS:
        backbone, rows = load_backbone(BackboneSettings(pretrained=tag)), []
        for dataset, (val, shots) in zip(datasets, encoded, strict=True):
            count, classes = len(dataset.base), len(dataset.classnames)
            text = names(backbone, dataset.classnames, dataset.template)
            base, novel = range(count), range(count, classes)
            open_base, open_novel = (
                100 * float(((val[0] @ text.T).argmax(1) == val[1])[mask].float().mean())
                for mask in (val[1] < count, val[1] >= count)
            )
            zero, means = accuracy(*shots, text, base), leave_one_out(*shots, base)
            rows.append([accuracy(*val, text, part) for part in (base, novel)] + [open_base, open_novel, zero, means])
            rows[-1] += [100 / count]
        *values, chance = np.mean(rows, axis=0)
        ratio, above = values[4] / values[5], (values[4] - chance) / (values[5] - chance)
        yield f"| `{tag}` | " + " | ".join(f"{value:.1f}" for value in values) + f" | {ratio:.2f} | {above:.2f} |"


def validate_generator(suite: str, synthetic: str, per_class: int = 8) -> Iterator[str]:
    """Yield a table: how class means of training images classify synthetic images, and vice versa validation images."""
    backbone = load_backbone(BackboneSettings())
    yield "| dataset | synthetic images, class means of real | validation images, class means of synthetic | of real |"
    yield "|---" * 4 + "|"
    for folder, settings in suite_of(DatasetSettings(name=suite)).items():
        dataset = load_dataset(settings)
        classes = range(len(dataset.classnames))
        real, val = (features(backbone, dataset.splits[split]) for split in ("train", "val"))
        images = ShardSet(f"{synthetic}/{folder}").subset(per_class)
        generated = features(backbone, images)
        of_real, of_synthetic = (class_means(*each, len(classes)) for each in (real, generated))
        values = accuracy(*generated, of_real, classes), accuracy(*val, of_synthetic, classes)
        yield f"| {folder} | {values[0]:.1f} | {values[1]:.1f} | {accuracy(*val, of_real, classes):.1f} |"


if __name__ == "__main__":
    lines = validate_generator(sys.argv[1], sys.argv[2]) if len(sys.argv) == 3 else validate_levels(SYMBOLS.name)
    for line in lines:
        print(line, flush=True)
