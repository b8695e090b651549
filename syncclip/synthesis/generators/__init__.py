"""Generators: prompts and seeds come in, images of any diffusers text-to-image pipeline go out."""

from syncclip.synthesis.generators.loading import find_scheduler
from syncclip.synthesis.generators.locating import Located, locate, parts_of
from syncclip.synthesis.generators.pipeline import NSFW, Generator
from syncclip.synthesis.generators.settings import GeneratorSettings, GuideSettings, LoraSettings

__all__ = [
    "NSFW",
    "Generator",
    "GeneratorSettings",
    "GuideSettings",
    "Located",
    "LoraSettings",
    "find_scheduler",
    "locate",
    "parts_of",
]
