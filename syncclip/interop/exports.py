"""From a run to a folder for others: a checkpoint for the method's published code, our prompts, and a model card."""

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
    """Where everything is; `checkpoint` is None where no published code of the method is known."""

    url: str
    card: str
    checkpoint: str | None


def export_prompts(run: str, out: str | None = None) -> ExportedRun:
    """Write a finished run's prompts in the format of the method's published code, with a model card.

    `out` then has the run's own files (recipe, prompts, record, results), so that it is a run as well; the card,
    `README.md`; and a folder that the published code loads: the learned parameters and the words around them in single
    precision, named by the recipe's last epoch and as the best. The card states what that folder lacks.

    Args:
        run: the run's folder or URL.
        out: a folder or URL; by default the run's own.

    Raises:
        UserError: there is no finished run, its method learns nothing, or the published code can't represent it; `out`
            has another run.
    """
    recipe, folder = finished_run(run)
    name = recipe.training.method
    if not find_method(name).data:
        raise UserError(f"{folder.url}: method {name!r} learns nothing; there are no prompts to export")
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
