"""Prompts: a class name and the number of an image come in, the sentence that it is generated from goes out."""

from syncclip.synthesis.prompts.settings import (
    PromptCoverage,
    PromptSettings,
    check_classes,
    coverage,
    prompt_of,
    prompts_of,
    samples,
)

__all__ = [
    "PromptCoverage",
    "PromptSettings",
    "check_classes",
    "coverage",
    "prompt_of",
    "prompts_of",
    "samples",
]
