"""From a recipe to the files of captions that it wants: one call, before anything is drawn from them."""

from __future__ import annotations

from syncclip import storage
from syncclip.benchmarks import load_benchmark
from syncclip.recipe import Recipe
from syncclip.settings import UserError
from syncclip.synthesis.prompts.captions import Captions, WriterSettings
from syncclip.synthesis.prompts.strategies import CaptionSettings
from syncclip.synthesis.prompts.writer import write_captions


def captions(recipe: Recipe, out: str | None = None) -> dict[str, Captions]:
    """Let the language models that the recipe names write captions, once: file -> what it holds now.

    What a file holds already stays. Killed at any time, the same call goes on from the last classes that were kept.

    Args:
        out: the file's path or URL; by default the one that the recipe names.

    Raises:
        UserError: the recipe names no model or no file; or see `synthesis.prompts.writer.write_captions`.
    """
    storage.configure(recipe.storage.options)
    prompts = recipe.synthesis.prompts
    wanted = {place: one for place, one in enumerate(prompts.strategies) if isinstance(one, CaptionSettings)}
    if not wanted:
        raise UserError(
            "the recipe asks for no captions; add {name: captions, file: FILE, writer: {model: MODEL}} to "
            "synthesis.prompts.strategies"
        )
    files: dict[str, WriterSettings] = {}
    for place, strategy in wanted.items():
        url, key = out or strategy.file, f"synthesis.prompts.strategies[{place}]"
        if strategy.writer is None:
            raise UserError(f"{key}.writer: missing; name a language model, as in {{model: Qwen/Qwen2.5-7B-Instruct}}")
        if url is None or url in files:
            raise UserError(f"{key}.file: captions need a file of their own; name one there, or with --out")
        files[url] = strategy.writer
    names = [name for name in load_benchmark(recipe.benchmark).classnames if name not in prompts.classes]
    return {url: write_captions(writer, names, url) for url, writer in files.items()}
