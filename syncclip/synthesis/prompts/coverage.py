"""What prompts a set has: samples of a class, and how many distinct ones there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from syncclip.synthesis.prompts.settings import OWN, PromptSettings, prompt_of, turn_of


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
        if own := settings.classes.get(name):
            counts[OWN] += images_per_class
            parts: list[tuple[Sequence[str], int]] = [(own, images_per_class)]
        else:
            counts.update(dict(zip(settings.labels, uses, strict=True)))
            parts = [
                (strategy.of(name, template), use)
                for strategy, use in zip(settings.mixture, uses, strict=True)
                if strategy.weight
            ]
        used = (sentences[turn] for sentences, use in parts for turn in range(min(use, len(sentences))))
        prompts = {sentence.replace("{}", name) for sentence in used}
        possible += sum(len(sentences) for sentences, _ in parts)
        fewest = min(fewest, len(prompts))
        every |= prompts
    return PromptCoverage(len(every), possible, fewest, dict(counts))


def _uses(weights: tuple[int, ...], images: int) -> list[int]:
    """How many of the first `images` images of a class use each strategy."""
    uses = [0] * len(weights)
    missing = {strategy for strategy, weight in enumerate(weights) if weight}
    for image in range(images - 1, -1, -1):  # the last use of each shows how many there were
        strategy, turn = turn_of(weights, image)
        if strategy in missing:
            uses[strategy] = turn + 1
            missing.discard(strategy)
        if not missing:
            break
    return uses


@lru_cache(maxsize=4)
def _by_turn(weights: tuple[int, ...], images: int) -> list[int]:
    """The images, those first that are the first of their strategy."""
    return sorted(range(images), key=lambda image: (turn_of(weights, image)[1], image))
