"""Evaluation protocols with their datasets and metrics, and published results with their sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import yaml
from pydantic import Field

from syncclip.core.settings import Settings, UserError
from syncclip.core.text import did_you_mean
from syncclip.datasets.catalog import DATASETS

TRAINED = tuple(name for name, dataset in DATASETS.items() if dataset.train is not None)
"""Names of the eleven datasets with training images."""
WITHIN_SPLIT = {"base": "base", "novel": "novel", "hm": "HM"}
ALL_CLASSES = {"all_classes_base": "base (all)", "all_classes_novel": "novel (all)", "all_classes_hm": "HM (all)"}
ACCURACY = {"all_classes_accuracy": "accuracy"}

Overrides = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Nested mapping of settings that override the recipe: dataset -> method -> settings."""
SHORT: Overrides = {"imagenet": {"coop": {"training.epochs": 50}}}
"""Overrides for CoOp, which trains on ImageNet for 50 epochs regardless of the number of shots
(`COOP.md`, KaiyangZhou/CoOp)."""
FINE: Overrides = {
    name: {"promptsrc": {"methods.promptsrc.aggregation_mean": 45, "methods.promptsrc.aggregation_std": 5}}
    for name in ("stanford_cars", "flowers102", "fgvc_aircraft", "dtd", "eurosat")
}
"""Overrides for PromptSRC, which aggregates prompts with a different Gaussian in few-shot runs on these datasets."""

_REGULARISATION_WEIGHTS = {
    "stanford_cars": 7, "fgvc_aircraft": 6, "sun397": 6, "dtd": 6, "food101": 5, "flowers102": 4, "ucf101": 3,
    "imagenet": 0.5, "caltech101": 0.5, "oxford_pets": 0.2, "eurosat": 0.01,
}  # fmt: skip
"""MMRL's regularisation weight for each dataset (from the scripts in yunncheng/MMRL)."""

_TCP_TEMPLATES = {
    "stanford_cars": {"suffix": "{}, a type of car"},
    "ucf101": {"suffix": "person doing {}."},
    "fgvc_aircraft": {"template": "a photo of an aircraft {}."},
    "dtd": {"template": "a photo of a {}, a type of texture."},
}
"""TCP's templates for datasets whose default template differs (from the authors' `trainers/tcp.py`)."""


def _later_methods(name: str) -> dict[str, dict[str, Any]]:
    """Return a dataset's settings for newer methods, with step counts (batches of 32) converted to epochs."""
    images = 16 * -(-DATASETS[name].classes // 2)
    values: dict[str, dict[str, Any]] = {
        method: {"training.epochs": -(-steps_per_shot * 16 // -(-images // 32))}
        for method, steps_per_shot in {"cliplora": 500, "twostage": 300}.items()
    }
    values["mmrl"] = {"methods.mmrl.regularisation_weight": _REGULARISATION_WEIGHTS[name]}
    values["tcp"] = {f"methods.tcp.{key}": template for key, template in _TCP_TEMPLATES.get(name, {}).items()}
    if name == "eurosat":
        values["mmrl"] |= {"methods.mmrl.dim": 2048}
        values["tip"] = {"training.epochs": 100}
    if name == "imagenet":
        values["mmrl"] |= {"training.epochs": 5, "training.batch_size": 32}
        values["mma"] = {"training.batch_size": 128}
    return values


BASE: Overrides = {name: {**_later_methods(name), **SHORT.get(name, {})} for name in TRAINED}
"""Overrides for training on the base classes with 16 shots."""


@dataclass(frozen=True)
class Protocol:
    """A published evaluation protocol.

    Attributes:
        title: heading of the report.
        recipe: name of the recipe with the configurations; its settings override each dataset's published recipe.
        runs: name of the run folder; protocols with the same run folder share their runs.
        metrics: key in `results.json` -> table heading. If there is only one metric, one table covers all datasets.
        datasets: names of the training datasets.
        overrides: settings for individual datasets and methods, which take precedence over the recipe.
    """

    name: str
    title: str
    recipe: str
    runs: str
    metrics: Mapping[str, str]
    datasets: tuple[str, ...] = TRAINED
    overrides: Overrides = field(default_factory=dict)


_PROTOCOLS = (
    Protocol(
        "base-to-novel", "Base-to-novel accuracy within each split",
        "protocols/base_to_novel", "base_to_novel", WITHIN_SPLIT, overrides=BASE,
    ),
    Protocol(
        "open-vocabulary", "Open vocabulary, all classes as candidates",
        "protocols/base_to_novel", "base_to_novel", ALL_CLASSES | {"openworld_auc": "OpenworldAUC"}, overrides=BASE,
    ),
    Protocol(
        "few-shot", "Few-shot curves over all classes", "protocols/few_shot", "few_shot", ACCURACY,
        overrides={**SHORT, **FINE},
    ),
    Protocol(
        "cross-dataset", "Prompts trained on ImageNet, tested on other datasets",
        "protocols/cross_dataset", "transfer", ACCURACY, ("imagenet",),
    ),
    Protocol(
        "domain-generalisation", "Prompts trained on ImageNet, tested on its variants",
        "protocols/domain_generalisation", "transfer", ACCURACY, ("imagenet",),
    ),
    Protocol("losses", "Ablations of SYNC-CLIP (Table 5)", "protocols/losses", "losses", WITHIN_SPLIT | ALL_CLASSES),
    Protocol(
        "data-use", "Training on real images, synthetic images, or both (Table 6)", "protocols/data_use", "data_use",
        WITHIN_SPLIT | ALL_CLASSES, overrides=BASE,
    ),
    Protocol(
        "growing", "Scaling up synthetic images (Figure 7)", "protocols/growing", "growing",
        WITHIN_SPLIT | ALL_CLASSES,
    ),
)  # fmt: skip

PROTOCOLS = {protocol.name: protocol for protocol in _PROTOCOLS}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name; raise a `UserError` for an unknown name."""
    if name not in PROTOCOLS:
        raise UserError(f"unknown protocol {name!r}; {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


AVERAGE = "average"


class Figures(Settings):
    """Published results from one source; `methods` maps each method to its scores in per cent, by metric."""

    protocol: str
    over: str
    setting: str
    source: str
    methods: dict[str, dict[str, float]]
    used: dict[str, str] = Field(default={})
    """Mapping from a method to the data it uses in addition to the few-shot images of the base classes."""


class Gain(Settings):
    """Published difference between a method and a baseline, in points."""

    protocol: str
    over: str
    method: str
    baseline: str
    metric: str
    points: float
    source: str


class Published(Settings):
    """Content of `published.yaml`: all published results."""

    figures: list[Figures]
    peers: list[Figures]
    """Results of methods that syncclip does not implement."""
    gains: list[Gain]

    def of(self, protocol: str, over: str, method: str) -> dict[str, float]:
        """Return a method's published results by metric, or {} if there are none."""
        result: dict[str, float] = {}
        for figures in self.figures:
            if (figures.protocol, figures.over) == (protocol, over):
                result |= figures.methods.get(method, {})
        return result

    def sources(self, protocol: str) -> Sequence[str]:
        """Describe the sources of a protocol's published results."""
        figures = [each for each in [*self.figures, *self.peers] if each.protocol == protocol]
        gains = [each for each in self.gains if each.protocol == protocol]
        return [*(f"{each.source}; {each.setting}" for each in figures), *(each.source for each in gains)]


@cache
def published() -> Published:
    """Load the published results from the package."""
    text = resources.files(__package__).joinpath("published.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))
