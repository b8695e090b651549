"""From a run to files that others read: the checkpoint of the method's published code, and our own with its card."""

from __future__ import annotations

import json
from dataclasses import dataclass

from syncclip import storage
from syncclip.core.settings import UserError
from syncclip.evaluation.predict import RESULTS
from syncclip.interop.checks import check_position
from syncclip.interop.dassl import write_checkpoint
from syncclip.interop.layouts import LAYOUTS, FixedWords
from syncclip.interop.model_card import CARD, model_card
from syncclip.methods import MethodSettings, find_method
from syncclip.runs.build import RunParts, build_parts
from syncclip.runs.resolve import finished_run
from syncclip.storage.places import absolute
from syncclip.training.loop import load_prompts
from syncclip.training.run_folder import PROMPTS, RECIPE, RECORD, RunFolder


@dataclass(frozen=True)
class ExportedRun:
    """Where everything lies; `checkpoint` is None where no published code of the method is known."""

    url: str
    card: str
    checkpoint: str | None


def export_prompts(run: str, out: str | None = None) -> ExportedRun:
    """Write a finished run's prompts as the method's published code writes its own, and a model card beside them.

    `out` then holds what the run is made of (recipe, prompts, record, results), so that it is a run as well, a
    `README.md` that tells what it is, and a folder that the published code loads: its learned parameters and the
    words around them in single precision, under the epoch that the recipe ends with and as the best. What it does not
    hold is told by the card.

    Args:
        run: the run's folder or URL.
        out: a folder or URL; by default the run's own.

    Raises:
        UserError: no finished run is there, or its method learns nothing, or the published code has no place for it;
            `out` holds another run.
    """
    recipe, folder = finished_run(run)
    name = recipe.training.method
    if not find_method(name).data:
        raise UserError(f"{folder.url}: method {name!r} learns nothing, so there are no prompts to export")
    out, record = absolute(out or folder.url), folder.record()
    RunFolder(out, folder.name, record.recipe_hash if record is not None else recipe.hash).open()
    parts = build_parts(recipe)
    load_prompts(folder.url, parts.method)
    learned = {key: tensor.detach().cpu() for key, tensor in parts.method.state_dict().items()}

    layout, checkpoint = LAYOUTS.get(name), None
    if layout is not None:
        check_position(name, recipe.methods.of(name))
        state = layout.saved(learned, _words(parts, recipe.methods.of(name)))
        checkpoint = write_checkpoint(storage.join(out, layout.folder), state, recipe.training.epochs)
    for file in (RECIPE, PROMPTS, RESULTS, RECORD):
        if out != folder.url and storage.exists(folder.path(file)):
            storage.write_bytes(storage.join(out, file), storage.read_bytes(folder.path(file)))
    results = json.loads(storage.read_bytes(there)) if storage.exists(there := folder.path(RESULTS)) else {}
    card = model_card(recipe, folder.name, parts.dataset, learned, results, record, layout)
    storage.write_bytes(storage.join(out, CARD), card.encode())
    return ExportedRun(out, storage.join(out, CARD), checkpoint)


def _words(parts: RunParts, settings: MethodSettings) -> FixedWords | None:
    """The words of all classes around the learned vectors; None for a method without such vectors."""
    if not hasattr(settings, "phrase"):
        return None
    return FixedWords.of(parts.method.clip, parts.dataset.classnames, settings)
