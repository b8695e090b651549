"""Prompt strategies, which provide sentences for each class, with `{}` for the class name."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import lcm, prod
from typing import Annotated, Literal, overload

from pydantic import Field, model_validator

from syncclip.core.settings import Settings, Template, with_one_placeholder
from syncclip.core.text import ARTICLE
from syncclip.synthesis.prompts.captions import Sentence, Sentences, WriterSettings


class Strategy(Settings):
    """Base class of prompt strategies."""

    weight: int = Field(1, ge=0, le=1000)
    """Relative share of each class's images that use the strategy; 0 disables the strategy."""


class SharedStrategy(Strategy):
    """A strategy with the same sentences for all classes."""

    @abstractmethod
    def shared(self, template: str) -> Sequence[str]:
        """Return the sentences; `template` is the dataset's template."""

    def of(self, classname: str, template: str) -> Sequence[str]:  # noqa: ARG002
        """Return the sentences of a class."""
        return self.shared(template)


class OwnStrategy(Strategy):
    """A strategy with separate sentences for each class, in the recipe or in a file."""

    file: str | None = None
    """Path or URL of a file with the sentences; plans contain the sentences instead of the path."""
    sentences: dict[str, Sentences] = Field(default_factory=dict)
    """Sentence templates, keyed by class name, with `{}` for the class name or `{a}` for the class name with its
    article."""

    def of(self, classname: str, template: str) -> Sequence[str]:  # noqa: ARG002
        """Return the sentences of a class."""
        return self.sentences[classname]


class TemplateSettings(SharedStrategy):
    """Class templates, which are used cyclically."""

    name: Literal["template"] = "template"
    """Sentences with a placeholder for the class name."""
    templates: tuple[Template, ...] = ()
    """Class templates; if empty, the dataset's template is used."""

    def shared(self, template: str) -> Sequence[str]:
        return self.templates or (template,)


class CombinationSettings(SharedStrategy):
    """A sentence template filled with all combinations of attributes, backgrounds or other words."""

    name: Literal["combinations"]
    """Sentences with several placeholders, filled with all combinations of words."""
    sentence: str
    """Sentence with `{}` or `{a}` for the class name and one placeholder per list, as in `a {colour} {} {scene}`."""
    lists: dict[str, Sentences] = Field(min_length=1)
    """Lists of replacement words, keyed by placeholder."""

    @model_validator(mode="after")
    def _check_placeholders(self) -> CombinationSettings:
        rest = self.sentence
        for name in self.lists:
            if self.sentence.count(f"{{{name}}}") != 1:
                raise ValueError(f"the sentence {self.sentence!r} must contain {{{name}}} exactly once")
            rest = rest.replace(f"{{{name}}}", "")
        for name in re.findall(r"\{([^{}]+)\}", rest):
            if f"{{{name}}}" != ARTICLE or "{}" in rest:
                raise ValueError(f"the sentence {self.sentence!r} contains {{{name}}}, which is not in `lists`; add it")
        with_one_placeholder(rest)
        return self

    def shared(self, template: str) -> Sequence[str]:  # noqa: ARG002
        return Combinations(self.sentence, self.lists)


class DescriptionSettings(OwnStrategy):
    """Descriptions of each class, in the recipe or in a JSON or YAML file."""

    name: Literal["descriptions"]
    """Class-specific sentences, from the recipe or a description file."""

    @model_validator(mode="after")
    def _check_source(self) -> DescriptionSettings:
        if (self.file is None) == (not self.sentences):
            raise ValueError("descriptions need either 'file' or 'sentences'; set exactly one")
        return self


class CaptionSettings(OwnStrategy):
    """Captions from a language model, read from a file written by `syncclip captions`."""

    name: Literal["captions"]
    """Class-specific captions written by a language model (`syncclip captions`)."""
    writer: WriterSettings | None = None
    """Language model and sampling options for `syncclip captions`; must match those of an existing caption file."""
    sha256: str = ""
    """Checksum of the caption file, set when the dataset is created."""


StrategySettings = Annotated[
    TemplateSettings | CombinationSettings | DescriptionSettings | CaptionSettings, Field(discriminator="name")
]


class Combinations(Sequence[str]):
    """Sequence of sentences with all combinations of the lists' words.

    For every n, the first n combinations are balanced: the counts of any two words in a list differ by at most one.
    """

    def __init__(self, sentence: str, lists: Mapping[str, Sequence[Sentence]]) -> None:
        self._sentence, self._lists = sentence, lists

    def __len__(self) -> int:
        return prod(map(len, self._lists.values()))

    @overload
    def __getitem__(self, turn: int) -> str: ...
    @overload
    def __getitem__(self, turn: slice) -> Sequence[str]: ...
    def __getitem__(self, turn: int | slice) -> str | Sequence[str]:
        if isinstance(turn, slice):
            return [self[index] for index in range(*turn.indices(len(self)))]
        if not 0 <= turn < len(self):
            raise IndexError(turn)
        words, box = {}, 1  # `box`: number of combinations of the lists so far
        for name, entries in self._lists.items():
            step = turn % (box * len(entries))
            words[name] = entries[(step + step // lcm(box, len(entries))) % len(entries)]
            box *= len(entries)
        return re.sub(r"\{([^{}]+)\}", lambda match: words[match[1]], self._sentence)
