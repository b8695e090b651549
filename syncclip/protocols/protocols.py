"""The protocols as one table: what is trained on what, where it is tested, which numbers are shown; and the published
figures, each with its source."""

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
"""The eleven datasets with training images."""
HALVES = {"base": "base", "novel": "novel", "hm": "HM"}
OPEN = {"all_classes_base": "base (all)", "all_classes_novel": "novel (all)", "all_classes_hm": "HM (all)"}
ACCURACY = {"all_classes_accuracy": "accuracy"}

Apart = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Dataset -> method -> recipe values."""
SHORT: Apart = {"imagenet": {"coop": {"training.epochs": 50}}}
"""CoOp's authors train on ImageNet for 50 epochs, however many shots there are (`COOP.md` of KaiyangZhou/CoOp)."""
FINE: Apart = {
    name: {"promptsrc": {"methods.promptsrc.aggregation_mean": 45, "methods.promptsrc.aggregation_std": 5}}
    for name in ("stanford_cars", "flowers102", "fgvc_aircraft", "dtd", "eurosat")
}
"""PromptSRC's authors have another Gaussian for few shots of these (their configuration of few-shot learning)."""

_PULLS = {
    "stanford_cars": 7, "fgvc_aircraft": 6, "sun397": 6, "dtd": 6, "food101": 5, "flowers102": 4, "ucf101": 3,
    "imagenet": 0.5, "caltech101": 0.5, "oxford_pets": 0.2, "eurosat": 0.01,
}  # fmt: skip
"""MMRL's weight of what keeps features near the frozen ones (scripts of yunncheng/MMRL)."""

_SENTENCES = {
    "stanford_cars": {"suffix": "{}, a type of car"},
    "ucf101": {"suffix": "person doing {}."},
    "fgvc_aircraft": {"template": "a photo of an aircraft {}."},
    "dtd": {"template": "a photo of a {}, a type of texture."},
}
"""TCP's, where they are not those of the dataset's template (`trainers/tcp.py` of its authors)."""


def _of_weights(name: str) -> dict[str, dict[str, Any]]:
    """Values of a dataset for the later methods: the authors of some count steps, of 32 images, and not epochs."""
    images = 16 * -(-DATASETS[name].classes // 2)
    found: dict[str, dict[str, Any]] = {
        method: {"training.epochs": -(-each * 16 // -(-images // 32))}
        for method, each in {"cliplora": 500, "twostage": 300}.items()
    }
    found["mmrl"] = {"methods.mmrl.regularisation_weight": _PULLS[name]}
    found["tcp"] = {f"methods.tcp.{key}": sentence for key, sentence in _SENTENCES.get(name, {}).items()}
    if name == "eurosat":
        found["mmrl"] |= {"methods.mmrl.dim": 2048}
        found["tip"] = {"training.epochs": 100}
    if name == "imagenet":
        found["mmrl"] |= {"training.epochs": 5, "training.batch_size": 32}
        found["mma"] = {"training.batch_size": 128}
    return found


BASE: Apart = {name: {**_of_weights(name), **SHORT.get(name, {})} for name in TRAINED}
"""Of the first half of the classes, 16 images each."""


@dataclass(frozen=True)
class Protocol:
    """One protocol of the literature.

    Attributes:
        recipe: which configurations learn what; it overrides the authors' recipe of each dataset.
        runs: the folder of its runs; protocols that read the same runs name the same.
        metrics: keys of `results.json` and their headings. Of a single one, a table shows all datasets side by side.
        datasets: that are trained on.
        apart: values of a method's configurations on datasets that its authors treat otherwise than the rest; over
        the recipe's.
    """

    name: str
    title: str
    recipe: str
    runs: str
    metrics: Mapping[str, str]
    datasets: tuple[str, ...] = TRAINED
    apart: Apart = field(default_factory=dict)


_PROTOCOLS = (
    Protocol(
        "base-to-novel", "Base to novel, each half among its own classes",
        "protocols/base_to_novel", "base_to_novel", HALVES, apart=BASE,
    ),
    Protocol(
        "open-vocabulary", "Open vocabulary, both halves among all classes",
        "protocols/base_to_novel", "base_to_novel", OPEN | {"openworld_auc": "OpenworldAUC"}, apart=BASE,
    ),
    Protocol(
        "few-shot", "Few-shot curves over all classes", "protocols/few_shot", "few_shot", ACCURACY,
        apart={**SHORT, **FINE},
    ),
    Protocol(
        "cross-dataset", "Prompts of ImageNet on other datasets",
        "protocols/cross_dataset", "transfer", ACCURACY, ("imagenet",),
    ),
    Protocol(
        "domain-generalisation", "Prompts of ImageNet on its variants",
        "protocols/domain_generalisation", "transfer", ACCURACY, ("imagenet",),
    ),
    Protocol("losses", "What each part of SYNC-CLIP is worth (Table 5)", "protocols/losses", "losses", HALVES | OPEN),
    Protocol(
        "data-use", "Real, synthetic, both (Table 6)", "protocols/data_use", "data_use", HALVES | OPEN, apart=BASE
    ),
    Protocol("growing", "Growing synthetic data (Figure 7)", "protocols/growing", "growing", HALVES | OPEN),
)  # fmt: skip

PROTOCOLS = {protocol.name: protocol for protocol in _PROTOCOLS}


def find_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        UserError: there is none.
    """
    if name not in PROTOCOLS:
        raise UserError(f"there is no protocol {name!r}; {did_you_mean(name, PROTOCOLS)}")
    return PROTOCOLS[name]


AVERAGE = "average"


class Figures(Settings):
    """What one source reports of several methods: method -> metric -> per cent."""

    protocol: str
    over: str
    setting: str
    source: str
    methods: dict[str, dict[str, float]]
    used: dict[str, str] = Field(default={})
    """Method -> what it used beside few labelled images of base classes."""


class Gain(Settings):
    """What one source reports of the difference of two methods, in points."""

    protocol: str
    over: str
    method: str
    baseline: str
    metric: str
    points: float
    source: str


class Published(Settings):
    """All that is known."""

    figures: list[Figures]
    peers: list[Figures]
    """Of methods that are not among those here."""
    gains: list[Gain]

    def of(self, protocol: str, over: str, method: str) -> dict[str, float]:
        """Metric -> per cent of a method, trained as its authors did; empty where nothing is known."""
        found: dict[str, float] = {}
        for one in self.figures:
            if (one.protocol, one.over) == (protocol, over):
                found |= one.methods.get(method, {})
        return found

    def sources(self, protocol: str) -> Sequence[str]:
        """Where the figures of a protocol come from."""
        found = [f"{one.source}; {one.setting}" for one in [*self.figures, *self.peers] if one.protocol == protocol]
        return [*found, *(one.source for one in self.gains if one.protocol == protocol)]


@cache
def published() -> Published:
    """The figures that come with the package."""
    text = resources.files(__package__).joinpath("published.yaml").read_text(encoding="utf-8")
    return Published.model_validate(yaml.safe_load(text))
