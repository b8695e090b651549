"""The `synthesis.prompts` section of a recipe, prompt selection for each image, and prompt coverage of a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import gcd
from typing import Literal, NamedTuple

from pydantic import model_validator

from syncclip.clip.prompt_text import filled
from syncclip.core.settings import Settings, Template, added
from syncclip.core.text import nearest
from syncclip.synthesis.prompts.captions import Sentences
from syncclip.synthesis.prompts.strategies import OwnStrategy, StrategySettings, TemplateSettings

OWN = "own"
"""Label for the sentences in `PromptSettings.classes`, in addition to the strategies' labels."""


class PromptSettings(Settings):
    """Prompts, either from class templates (used cyclically) or from a mixture of strategies."""

    name: Literal["template"] = "template"
    """Prompt type; always `template`."""
    templates: tuple[Template, ...] = ()
    """Templates with one `{}` for the class name, or one `{a}` for the class name with its article; if empty, the
    dataset's template is used."""
    strategies: tuple[StrategySettings, ...] = added(())
    """Prompt strategies, which are mixed in proportion to their weights and replace `templates`."""
    classes: dict[str, Sentences] = added({})
    """Sentence templates with `{}` for the class name, keyed by class name; they replace all other prompts of these
    classes."""

    @model_validator(mode="after")
    def _check_consistency(self) -> PromptSettings:
        if self.strategies and self.templates:
            raise ValueError(
                "'templates' and 'strategies' are mutually exclusive; convert the templates to a strategy: "
                "{name: template, templates: [...]}"
            )
        if self.strategies and not any(self.weights):
            raise ValueError("the weights of all strategies are 0; increase one")
        return self

    @property
    def mixture(self) -> tuple[StrategySettings, ...]:
        """The recipe's strategies, or a single strategy with `templates`."""
        return self.strategies or _single(self.templates)

    @property
    def weights(self) -> tuple[int, ...]:
        """Weights of the mixture."""
        return tuple(strategy.weight for strategy in self.strategies) or (1,)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the mixture's strategies; repeated names are numbered."""
        names = [strategy.name for strategy in self.mixture]
        return tuple(
            name if names.count(name) == 1 else f"{name} {names[: position + 1].count(name)}"
            for position, name in enumerate(names)
        )


@lru_cache(maxsize=16)
def _single(templates: tuple[str, ...]) -> tuple[TemplateSettings]:
    return (TemplateSettings(templates=templates),)


def prompt_of(settings: PromptSettings, template: str, classname: str, image: int) -> str:
    """Return the prompt of image number `image` of a class; `template` is the dataset's template."""
    sentences: Sequence[str] | None = settings.classes.get(classname)
    turn = image
    if sentences is None:
        strategy, turn = turn_of(settings.weights, image)
        sentences = settings.mixture[strategy].of(classname, template)
    return filled(sentences[turn % len(sentences)], classname)


def check_classes(settings: PromptSettings, classnames: Sequence[str], dataset: str) -> None:
    """Raise a ValueError if a class is unknown or has no sentences."""
    own: dict[str, Mapping[str, Sequence[str]]] = {}
    for number, strategy in enumerate(settings.strategies):
        if isinstance(strategy, OwnStrategy) and strategy.weight:
            assert strategy.file is None, "files are read before the plan is created"
            own[f"synthesis.prompts.strategies[{number}] ({strategy.name})"] = strategy.sentences
    classes = set(classnames)
    for key, sentences in {"synthesis.prompts.classes": settings.classes, **own}.items():
        if (other := next((name for name in sentences if name not in classes), None)) is not None:
            hint = f"did you mean {nearest(other, classnames) or classnames[0]!r}?"
            raise ValueError(f"{key}: {other!r} is not a class of dataset {dataset!r}; {hint}")
    for key, sentences in own.items():
        without = [name for name in classnames if name not in sentences and name not in settings.classes]
        if without:
            more = f" and {len(without) - 1} more" if without[1:] else ""
            raise ValueError(
                f"{key} has no sentence for class {without[0]!r}{more}; add one, or set synthesis.prompts.classes"
            )


def turn_of(weights: tuple[int, ...], image: int) -> tuple[int, int]:
    """Return the strategy of image number `image`, and the number of earlier images that use the same strategy.

    For every n, the first n images use a strategy n · weight / sum(weights) times, rounded up or down.
    """
    if len(weights) == 1:
        return 0, image
    order, turns, uses = _period(weights)
    periods, position = divmod(image, len(order))
    return order[position], periods * uses[order[position]] + turns[position]


@lru_cache(maxsize=64)
def _period(weights: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return one period of the mixture: each position's strategy and number of earlier uses; each strategy's total.

    Each position uses the strategy with the earliest deadline. Source: R. Tijdeman, The chairman assignment problem,
    Discrete Mathematics 32 (1980).
    """
    divisor = gcd(*weights)
    assert divisor > 0 and min(weights) >= 0
    weights = tuple(weight // divisor for weight in weights)
    length, slack = sum(weights), max(1, 2 * sum(weight > 0 for weight in weights) - 2)
    used = [0] * len(weights)
    order, turns = [], []
    for position in range(1, length + 1):
        due = [
            (-(-(slack * used[index] + slack - 1) * length // (slack * weight)), index)
            for index, weight in enumerate(weights)
            if slack * (weight * position - length * used[index]) >= length
        ]
        _, strategy = min(due)
        order.append(strategy)
        turns.append(used[strategy])
        used[strategy] += 1
    return tuple(order), tuple(turns), weights


class PromptCoverage(NamedTuple):
    """Prompt coverage of a dataset."""

    distinct: int
    """Number of distinct prompts across all classes."""
    possible: int
    """Total number of sentences across strategies and classes, an upper bound on `distinct`."""
    fewest: int
    """Minimum number of distinct prompts per class."""
    by_strategy: dict[str, int]
    """Number of images, keyed by strategy."""


def samples(settings: PromptSettings, template: str, classname: str, images: int, count: int) -> list[str]:
    """Return up to `count` distinct prompts of a class with `images` images, alternating between strategies."""
    prompts: dict[str, None] = {}
    for image in _by_turn(settings.weights, min(images, 1000)):
        prompts.setdefault(prompt_of(settings, template, classname, image))
        if len(prompts) == count:
            break
    return list(prompts)


def coverage(
    settings: PromptSettings, template: str, classnames: Sequence[str], images_per_class: int
) -> PromptCoverage:
    """Return the prompt coverage of a dataset with `images_per_class` images per class."""
    uses = _uses(settings.weights, images_per_class)
    counts: Counter[str] = Counter()
    prompts: set[str] = set()
    possible, fewest = 0, images_per_class
    for name in classnames:
        if name in settings.classes:
            counts[OWN] += images_per_class
        else:
            counts.update(dict(zip(settings.labels, uses, strict=True)))
        of_class = set(distinct(settings, template, name, images_per_class))
        possible += sum(len(sentences) for sentences, _ in _parts(settings, template, name, images_per_class))
        fewest = min(fewest, len(of_class))
        prompts |= of_class
    return PromptCoverage(len(prompts), possible, fewest, dict(counts))


def distinct(settings: PromptSettings, template: str, classname: str, images: int) -> Iterator[str]:
    """Yield the prompts of a class with `images` images, without repetitions within a strategy."""
    for sentences, use in _parts(settings, template, classname, images):
        for turn in range(min(use, len(sentences))):
            yield filled(sentences[turn], classname)


def _parts(settings: PromptSettings, template: str, classname: str, images: int) -> list[tuple[Sequence[str], int]]:
    """Return (sentences, number of images) for each strategy of a class."""
    if (own := settings.classes.get(classname)) is not None:
        return [(own, images)]
    uses = zip(settings.mixture, _uses(settings.weights, images), strict=True)
    return [(strategy.of(classname, template), use) for strategy, use in uses if strategy.weight]


@lru_cache(maxsize=4)
def _uses(weights: tuple[int, ...], images: int) -> list[int]:
    """Return the number of images per class that use each strategy."""
    order, _, per_period = _period(weights)
    periods, rest = divmod(images, len(order))
    return [periods * use + order[:rest].count(strategy) for strategy, use in enumerate(per_period)]


@lru_cache(maxsize=4)
def _by_turn(weights: tuple[int, ...], images: int) -> list[int]:
    """Return image numbers: the first image of each strategy, then the second image of each strategy, and so on."""
    return sorted(range(images), key=lambda image: (turn_of(weights, image)[1], image))
