"""Captions: language model settings, output clean-up, and caption files."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from syncclip.core.settings import Settings, Template


class WriterSettings(Settings):
    """The language model that writes captions, and its sampling options."""

    model: str
    """Causal language model supported by transformers: a folder, or a hub name such as `Qwen/Qwen2.5-7B-Instruct`."""
    revision: str | None = None
    """Branch, tag or commit on the hub; the caption file stores the commit."""
    instruction: Template = "Describe a photo of a {} in one sentence of at most twenty words, with its surroundings."
    """Instruction for the model, with `{}` for the class name."""
    captions: int = Field(8, ge=1, le=1000)
    """Number of distinct captions per class."""
    max_tokens: int = Field(48, ge=1)
    """Maximum length of an output in tokens; longer outputs are truncated after the last complete sentence."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature; lower values give more similar captions."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Cumulative probability threshold for nucleus (top-p) sampling."""
    seed: int = Field(0, ge=0)
    """Sampling seed; the same seed produces identical captions."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the language model's weights and arithmetic."""


class Captions(Settings):
    """A caption file, which can be edited before images are generated from it."""

    format: Literal[1] = 1
    writer: WriterSettings
    weights: str = ""
    """Hub commit of the language model; empty for a local folder."""
    sentences: dict[str, Sentences] = Field(default_factory=dict)
    """Class name -> captions."""

    @property
    def sha256(self) -> str:
        """First 16 hex digits of the content's SHA-256 hash."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]


def caption(output: str, classname: str) -> str | None:
    """Return the first line of an output, truncated after its last complete sentence, or None for an empty output.

    A missing class name is prepended, as in `fir tree, snow on the needles`.
    """
    lines = (re.sub(r"^\s*(\d+[.)]|[-*•])\s+", "", line) for line in output.splitlines())
    stripped = (line.strip(" \t\"'`*_#“”") for line in lines)
    line = next((line for line in stripped if re.search(r"\w", line)), "")
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in line).split())
    if complete := re.match(r".*[.!?](?=\s|$)", text):
        text = complete[0]
    if not re.search(r"\w", text):
        return None
    contains_name = re.search(rf"(?<!\w){re.escape(classname)}(s|es)?(?!\w)", text, re.IGNORECASE)
    return text if contains_name else f"{classname}, {text}"


def check_sentence(text: str) -> str:
    """Strip the sentence; raise a ValueError unless it is one line of printable text."""
    text = text.strip()
    if not text or not text.isprintable():
        raise ValueError(f"{text!r} must be one line of printable text")
    return text


Sentence = Annotated[str, AfterValidator(check_sentence)]
Sentences = Annotated[tuple[Sentence, ...], Field(min_length=1)]
