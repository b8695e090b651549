"""Captions: what a language model is asked, what a sentence may be, and the file of what was written."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from syncclip.core.settings import Settings, Template


class WriterSettings(Settings):
    """Which language model writes captions, and how."""

    model: str
    """A causal language model of transformers: a folder, or a name on the hub such as `Qwen/Qwen2.5-7B-Instruct`."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the commit that it stood for is kept with the captions."""
    instruction: Template = "Describe a photo of a {} in one sentence of at most twenty words, with its surroundings."
    """What the model is asked, with `{}` for the class name."""
    captions: int = Field(8, ge=1, le=1000)
    """How many different ones are wanted for a class."""
    max_tokens: int = Field(48, ge=1)
    """Length of an answer at most; of a longer one the whole sentences are kept."""
    temperature: float = Field(1.0, gt=0)
    """Of sampling; the lower, the more alike the captions."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Of sampling: words are taken from the most probable ones that make up this share."""
    seed: int = Field(0, ge=0)
    """Of sampling; the same seed writes the same captions."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the language model's weights and arithmetic."""


class Captions(Settings):
    """The file: plain JSON, to be read and corrected by hand before anything is generated from it."""

    format: Literal[1] = 1
    writer: WriterSettings
    weights: str = ""
    """What identifies the model's weights: the commit on the hub, empty for a folder."""
    sentences: dict[str, Sentences] = Field(default_factory=dict)
    """Class name -> captions."""

    @property
    def sha256(self) -> str:
        """Hex digest (16 digits) of all that the file holds."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]


def caption(answer: str, classname: str) -> str | None:
    """One caption out of a model's answer: its first line, cut after its last whole sentence, with the class name.

    Where the name is missing, it comes first: `fir tree, snow on the needles`. None where the answer is empty.
    """
    lines = (re.sub(r"^\s*(\d+[.)]|[-*•])\s+", "", line) for line in answer.splitlines())
    line = next((found for line in lines if (found := line.strip(" \t\"'`*_#“”")) and re.search(r"\w", found)), "")
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in line).split())
    if whole := re.match(r".*[.!?](?=\s|$)", text):
        text = whole[0]
    if not re.search(r"\w", text):
        return None
    said = re.search(rf"(?<!\w){re.escape(classname)}(s|es)?(?!\w)", text, re.IGNORECASE)
    return text if said else f"{classname}, {text}"


def sayable(text: str) -> str:
    """The sentence without space around it.

    Raises:
        ValueError: it is empty, or holds line breaks or other characters that can't be printed.
    """
    text = text.strip()
    if not text or not text.isprintable():
        raise ValueError(f"{text!r} is no sentence; write one line of text")
    return text


Sentence = Annotated[str, AfterValidator(sayable)]
Sentences = Annotated[tuple[Sentence, ...], Field(min_length=1)]
