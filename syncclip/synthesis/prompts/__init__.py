"""From a class name to the sentences that are generated.

sentences  what a sentence may be
strategies template, combinations, descriptions, captions: each a small class of settings
mixing     which strategy an image uses: exact shares in every prefix
settings   section `synthesis.prompts` of a recipe; `prompt_of` an image of a class
coverage   samples of a class, and how many distinct prompts a set has
files      descriptions and captions read from files into the settings, as a plan holds them
captions   what a language model is asked, and the file of what it wrote
writer     the language model
"""

from syncclip.synthesis.prompts.coverage import PromptCoverage, coverage, samples
from syncclip.synthesis.prompts.settings import PromptSettings, check_classes, prompt_of, prompts_of, strategy_of

__all__ = [
    "PromptCoverage",
    "PromptSettings",
    "check_classes",
    "coverage",
    "prompt_of",
    "prompts_of",
    "samples",
    "strategy_of",
]
