"""Class names in prompts: templates and English articles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from syncclip.core.text import ARTICLE, readable_name

_VOWEL = re.compile(
    r"(?!eu|ewe|one\b|once|u(bi|fo|k[eu]|ni(?![nm])|ra|re|s[aeu]|t[eio]))[aeiou]|hour|hono|honest|heir|8|1[18](?!\d)"
)
"""Regular expression for lower-case words that begin with a vowel sound."""
_SPELLED = re.compile(r"([A-Z]{1,3}|[B-DF-HJ-NP-TV-Z]+)(?![A-Za-z])")
"""Regular expression for words that are pronounced letter by letter, such as "F-16"."""


def fill(template: str, classnames: Iterable[str]) -> list[str]:
    """Insert each class name into the template, at `{}` without an article or at `{a}` with its article."""
    if ARTICLE in template:
        template, classnames = template.replace(ARTICLE, "{}"), map(with_article, classnames)
    parts = template.split("{}")
    return [name.join(parts) for name in classnames]


def filled(template: str, classname: str) -> str:
    """Insert a single class name into the template (see `fill`)."""
    return fill(template, [classname])[0]


def with_article(classname: str) -> str:
    """Prepend "a" or "an" based on pronunciation: "an hour", "a unicorn", "an F-16", "an 80s car"."""
    word = readable_name(classname).partition(" ")[0]
    vowel = word[0] in "AEFHILMNORSX" if _SPELLED.match(word) else _VOWEL.match(word.lower())
    return f"{'an' if vowel else 'a'} {classname}"


def prompt_texts(classnames: Sequence[str], phrase: str, n: int) -> list[str]:
    """Return "<phrase> <name>." for every class; an empty phrase is replaced by "X" repeated n times."""
    prefix = phrase or " ".join(["X"] * n)
    return [f"{prefix} {readable_name(name)}.".strip() for name in classnames]


def too_long(sentence: str, context: int) -> str:
    """Return the error message for a text with more than `context` tokens."""
    return f"the text '{sentence}' exceeds the CLIP context length of {context} tokens"
