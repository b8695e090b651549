"""What a sentence may be, in a recipe and in a file."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field


def sayable(text: str) -> str:
    """The sentence without space around it.

    Raises:
        ValueError: it is empty, or holds line breaks or other characters that can't be printed.
    """
    text = text.strip()
    if not text or not text.isprintable():
        raise ValueError(f"{text!r} is no sentence; write one line of text")
    return text


def with_one_place(template: str) -> str:
    """The template, if it has one place for the class name.

    Raises:
        ValueError: it has none or several.
    """
    if template.count("{}") != 1:
        raise ValueError(
            f"the template {template!r} must hold {{}} exactly once, where the class name goes, "
            "as in 'a photo of a {}.'"
        )
    return template


Sentence = Annotated[str, AfterValidator(sayable)]
Sentences = Annotated[tuple[Sentence, ...], Field(min_length=1)]
Template = Annotated[str, AfterValidator(with_one_place)]
