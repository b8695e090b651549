"""Generators: any diffusers text-to-image pipeline, by hub name, folder or class.

settings   section `synthesis.generator` of a recipe
locating   where weights lie and what identifies them, without loading them
loading    from a place to a pipeline on its device: class, scheduler, LoRA, attention, compilation
calling    what a family's call takes of the settings, and what it refuses
generator  one image for each prompt and seed, from noise or from a real image
probing    the batch size and the attention that are fastest here
"""

from syncclip.synthesis.generators.loading import check_scheduler
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
    "check_scheduler",
    "locate",
    "parts_of",
]
