"""Section `synthesis.prompts` of a recipe, which prompt an image has, and how many distinct ones a set has."""

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
"""What the sentences given to single classes are called among the strategies."""


class PromptSettings(Settings):
    """Class templates, taken in turn: image k of a class uses template k modulo their number. Or several strategies.

    So every run of as many images as there are templates shows each of them once, whatever the class.
    """

    name: Literal["template"] = "template"
    """The kind of prompts; so far there is one."""
    templates: tuple[Template, ...] = ()
    """Sentences with one `{}` for the class name, or `{a}` for the name with its article; none: the dataset's own
    template."""
    strategies: tuple[StrategySettings, ...] = added(())
    """Instead of `templates`: several ways, mixed by their weights."""
    classes: dict[str, Sentences] = added({})
    """Class name -> sentences that this class is generated from instead; `{}` stands for the name."""

    @model_validator(mode="after")
    def _check_consistency(self) -> PromptSettings:
        if self.strategies and self.templates:
            raise ValueError(
                "'templates' and 'strategies' exclude each other; make the templates a strategy: "
                "{name: template, templates: [...]}"
            )
        if self.strategies and not any(self.weights):
            raise ValueError("the weights of all strategies are 0, so nothing is left to generate; give one a weight")
        return self

    @property
    def mixture(self) -> tuple[StrategySettings, ...]:
        """The strategies, a single one where only templates are given."""
        return self.strategies or _alone(self.templates)

    @property
    def weights(self) -> tuple[int, ...]:
        """Of the mixture."""
        return tuple(strategy.weight for strategy in self.strategies) or (1,)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the strategies of the mixture are called; those of one kind are numbered."""
        names = [strategy.name for strategy in self.mixture]
        return tuple(
            name if names.count(name) == 1 else f"{name} {names[: place + 1].count(name)}"
            for place, name in enumerate(names)
        )


@lru_cache(maxsize=16)
def _alone(templates: tuple[str, ...]) -> tuple[TemplateSettings]:
    return (TemplateSettings(templates=templates),)


def prompt_of(settings: PromptSettings, template: str, classname: str, image: int) -> str:
    """The prompt of image number `image` (0, 1, …) of a class; `template` is the dataset's own."""
    sentences: Sequence[str] | None = settings.classes.get(classname)
    turn = image
    if sentences is None:
        strategy, turn = turn_of(settings.weights, image)
        sentences = settings.mixture[strategy].of(classname, template)
    return filled(sentences[turn % len(sentences)], classname)


def prompts_of(settings: PromptSettings, template: str, classnames: Sequence[str], image: int) -> list[str]:
    """`prompt_of` image number `image` of each of the classes, much faster."""
    place, turn = turn_of(settings.weights, image)
    own = settings.classes
    mixed = [name for name in classnames if name not in own] if own else classnames
    prompts = settings.mixture[place].prompts(mixed, template, turn)
    if not own:
        return prompts
    rest = iter(prompts)
    return [prompt_of(settings, template, name, image) if name in own else next(rest) for name in classnames]


def check_classes(settings: PromptSettings, classnames: Sequence[str], dataset: str) -> None:
    """Hold the sentences for single classes against the classes that there are.

    Raises:
        ValueError: a class has no sentences, or a name is no class's.
    """
    own: dict[str, Mapping[str, Sequence[str]]] = {}
    for place, strategy in enumerate(settings.strategies):
        if isinstance(strategy, OwnStrategy) and strategy.weight:
            assert strategy.file is None, "files are read before a plan is made"
            own[f"synthesis.prompts.strategies[{place}] ({strategy.name})"] = strategy.sentences
    known = set(classnames)
    for key, sentences in {"synthesis.prompts.classes": settings.classes, **own}.items():
        if (other := next((name for name in sentences if name not in known), None)) is not None:
            near = nearest(other, classnames)
            hint = f"did you mean {near!r}?" if near else f"the first is {classnames[0]!r}"
            raise ValueError(f"{key}: {other!r} is no class of dataset {dataset!r}; {hint}")
    for key, sentences in own.items():
        without = [name for name in classnames if name not in sentences and name not in settings.classes]
        if without:
            more = f" and {len(without) - 1} more" if without[1:] else ""
            raise ValueError(
                f"{key} has no sentence for class {without[0]!r}{more}; add some, there or to synthesis.prompts.classes"
            )


def turn_of(weights: tuple[int, ...], image: int) -> tuple[int, int]:
    """(strategy, turn) of image number `image`: how often the strategy was used before is its turn.

    Among the first n images each strategy is used n · weight / sum times, give or take less than one, whatever n is.

    Args:
        weights: at least 0, and one of them more.
        image: from 0.
    """
    if len(weights) == 1:
        return 0, image
    order, turns, uses = _period(weights)
    periods, place = divmod(image, len(order))
    return order[place], periods * uses[order[place]] + turns[place]


@lru_cache(maxsize=64)
def _period(weights: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """One period: the strategy and the turn of each place, and how often each strategy is used.

    Of the strategies that are due, the one with the earliest deadline is taken. Source: R. Tijdeman, The
    chairman assignment problem, Discrete Mathematics 32 (1980).
    """
    divisor = gcd(*weights)
    assert divisor > 0 and min(weights) >= 0
    weights = tuple(weight // divisor for weight in weights)
    length, slack = sum(weights), max(1, 2 * sum(weight > 0 for weight in weights) - 2)
    used = [0] * len(weights)
    order, turns = [], []
    for place in range(1, length + 1):
        due = [
            (-(-(slack * used[one] + slack - 1) * length // (slack * weight)), one)
            for one, weight in enumerate(weights)
            if slack * (weight * place - length * used[one]) >= length
        ]
        _, taken = min(due)
        order.append(taken)
        turns.append(used[taken])
        used[taken] += 1
    return tuple(order), tuple(turns), weights


class PromptCoverage(NamedTuple):
    """How varied the prompts of a set are."""

    distinct: int
    """Different prompts that the images have, over all classes."""
    possible: int
    """Sentences that the strategies offer, over all classes: what there could be, were there images enough."""
    fewest: int
    """Different prompts of the class that has fewest."""
    by_strategy: dict[str, int]
    """Strategy -> images."""


def samples(settings: PromptSettings, template: str, classname: str, images: int, count: int) -> list[str]:
    """Up to `count` different prompts of a class with `images` images: of each strategy the first come first."""
    found: dict[str, None] = {}
    for image in _by_turn(settings.weights, min(images, 1000)):
        found.setdefault(prompt_of(settings, template, classname, image))
        if len(found) == count:
            break
    return list(found)


def coverage(
    settings: PromptSettings, template: str, classnames: Sequence[str], images_per_class: int
) -> PromptCoverage:
    """The coverage of a set of `images_per_class` images of each class, as planned."""
    uses = _uses(settings.weights, images_per_class)
    counts: Counter[str] = Counter()
    every: set[str] = set()
    possible, fewest = 0, images_per_class
    for name in classnames:
        if name in settings.classes:
            counts[OWN] += images_per_class
        else:
            counts.update(dict(zip(settings.labels, uses, strict=True)))
        prompts = set(distinct(settings, template, name, images_per_class))
        possible += sum(len(sentences) for sentences, _ in _parts(settings, template, name, images_per_class))
        fewest = min(fewest, len(prompts))
        every |= prompts
    return PromptCoverage(len(every), possible, fewest, dict(counts))


def distinct(settings: PromptSettings, template: str, classname: str, images: int) -> Iterator[str]:
    """The prompts of a class with `images` images; seldom one of them twice."""
    for sentences, use in _parts(settings, template, classname, images):
        for turn in range(min(use, len(sentences))):
            yield filled(sentences[turn], classname)


def _parts(settings: PromptSettings, template: str, classname: str, images: int) -> list[tuple[Sequence[str], int]]:
    """(sentences, images that use them) of each strategy of a class."""
    if (own := settings.classes.get(classname)) is not None:
        return [(own, images)]
    uses = zip(settings.mixture, _uses(settings.weights, images), strict=True)
    return [(strategy.of(classname, template), use) for strategy, use in uses if strategy.weight]


@lru_cache(maxsize=4)
def _uses(weights: tuple[int, ...], images: int) -> list[int]:
    """Images of a class that use each strategy."""
    order, _, whole = _period(weights)
    periods, rest = divmod(images, len(order))
    return [periods * use + order[:rest].count(strategy) for strategy, use in enumerate(whole)]


@lru_cache(maxsize=4)
def _by_turn(weights: tuple[int, ...], images: int) -> list[int]:
    """The images, those first that are the first of their strategy."""
    return sorted(range(images), key=lambda image: (turn_of(weights, image)[1], image))
