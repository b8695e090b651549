"""Ways from a class name to sentences, each a small class of settings. In a sentence `{}` is the class name."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import lcm, prod
from typing import Annotated, Literal, overload

from pydantic import Field, model_validator

from syncclip.clip.prompt_text import fill, filled
from syncclip.core.settings import Settings, Template, with_one_place
from syncclip.core.text import ARTICLE
from syncclip.synthesis.prompts.captions import Sentence, Sentences, WriterSettings


class Strategy(Settings):
    """What all have in common."""

    weight: int = Field(1, ge=0, le=1000)
    """Of the images of a class, weight / sum of the weights use this strategy; 0 leaves it out."""


class SharedStrategy(Strategy):
    """One whose sentences hold `{}` once and serve all classes."""

    @abstractmethod
    def shared(self, template: str) -> Sequence[str]:
        """The sentences in turn; `template` is the dataset's own."""

    def of(self, classname: str, template: str) -> Sequence[str]:  # noqa: ARG002
        """Those of a class."""
        return self.shared(template)

    def prompts(self, classnames: Sequence[str], template: str, turn: int) -> list[str]:
        """The prompt of a turn for each class."""
        sentences = self.shared(template)
        return fill(sentences[turn % len(sentences)], classnames)


class OwnStrategy(Strategy):
    """One that has sentences for each class, written into the recipe or in a file."""

    file: str | None = None
    """Path or URL; a plan names no file, it holds the sentences."""
    sentences: dict[str, Sentences] = Field(default_factory=dict)
    """Class name -> its sentences; `{}` may stand for the name, `{a}` for the name with its article."""

    def of(self, classname: str, template: str) -> Sequence[str]:  # noqa: ARG002
        """The sentences of a class in turn."""
        return self.sentences[classname]

    def prompts(self, classnames: Sequence[str], template: str, turn: int) -> list[str]:  # noqa: ARG002
        """The prompt of a turn for each class."""
        found = ((name, self.sentences[name]) for name in classnames)
        return [filled(sentences[turn % len(sentences)], name) for name, sentences in found]


class TemplateSettings(SharedStrategy):
    """Class templates: image after image takes the next."""

    name: Literal["template"] = "template"
    """Sentences with a place for the class name."""
    templates: tuple[Template, ...] = ()
    """None: the dataset's own template."""

    def shared(self, template: str) -> Sequence[str]:
        return self.templates or (template,)


class CombinationSettings(SharedStrategy):
    """Every combination of attributes, backgrounds or whatever else is listed; see `Combinations`."""

    name: Literal["combinations"]
    """Sentences with several places, filled by every combination of words."""
    sentence: str
    """One with `{}`, or `{a}` with the article, and each list in braces: `a {attribute} {} {background}`."""
    lists: dict[str, Sentences] = Field(min_length=1)
    """Name -> words, one of which takes its place."""

    @model_validator(mode="after")
    def _a_place_for_each_list(self) -> CombinationSettings:
        for name in self.lists:
            if self.sentence.count(f"{{{name}}}") != 1:
                raise ValueError(
                    f"the sentence {self.sentence!r} must hold {{{name}}} exactly once, where words of that list go"
                )
        rest = self.sentence
        for name in self.lists:
            rest = rest.replace(f"{{{name}}}", "")
        for name in re.findall(r"\{([^{}]+)\}", rest):
            if f"{{{name}}}" != ARTICLE or "{}" in rest:
                raise ValueError(f"the sentence {self.sentence!r} has a place {{{name}}}, but no list is called so")
        with_one_place(rest)
        return self

    def shared(self, template: str) -> Sequence[str]:  # noqa: ARG002
        return Combinations(self.sentence, self.lists)


class DescriptionSettings(OwnStrategy):
    """Sentences of one's own: class names with a list of sentences for each, here or in a JSON or YAML file."""

    name: Literal["descriptions"]
    """Sentences about each class, from a file of descriptions."""

    @model_validator(mode="after")
    def _from_one_place(self) -> DescriptionSettings:
        if (self.file is None) == (not self.sentences):
            raise ValueError("descriptions need a 'file' or 'sentences', one of the two")
        return self


class CaptionSettings(OwnStrategy):
    """Captions that a language model wrote: the file that `syncclip captions` made."""

    name: Literal["captions"]
    """Sentences about each class that a language model wrote (`syncclip captions`)."""
    writer: WriterSettings | None = None
    """Needed to write them; a file that another one wrote is refused."""
    sha256: str = ""
    """Digest of the file, in a plan."""


StrategySettings = Annotated[
    TemplateSettings | CombinationSettings | DescriptionSettings | CaptionSettings, Field(discriminator="name")
]


class Combinations(Sequence[str]):
    """All combinations of the lists' words in a sentence, each once.

    They come down the diagonals of the box that the lists span, so that in any run of them each word of a list comes
    as often as any other, give or take one.
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
            return [self[one] for one in range(*turn.indices(len(self)))]
        if not 0 <= turn < len(self):
            raise IndexError(turn)
        words, box = {}, 1  # combinations of the lists so far
        for name, entries in self._lists.items():
            step = turn % (box * len(entries))
            words[name] = entries[(step + step // lcm(box, len(entries))) % len(entries)]
            box *= len(entries)
        return re.sub(r"\{([^{}]+)\}", lambda place: words[place[1]], self._sentence)
